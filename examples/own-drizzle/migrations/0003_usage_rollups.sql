CREATE TABLE "quota_rollups" (
	"time_zone" text NOT NULL,
	"day_start" timestamp (3) with time zone NOT NULL,
	"day_end" timestamp (3) with time zone NOT NULL,
	"rolled_until" timestamp (3) with time zone NOT NULL,
	CONSTRAINT "quota_rollups_rolled_until_check" CHECK ("quota_rollups"."rolled_until" BETWEEN "quota_rollups"."day_start" AND "quota_rollups"."day_end")
);
--> statement-breakpoint
CREATE TABLE "quota_usage_days" (
	"user_id" text NOT NULL,
	"quota_type_id" integer NOT NULL,
	"time_zone" text NOT NULL,
	"day_start" timestamp (3) with time zone NOT NULL,
	"usage" bigint NOT NULL,
	"calls" bigint NOT NULL
);
--> statement-breakpoint
CREATE TABLE "quota_usage_marks" (
	"user_id" text NOT NULL,
	"at" timestamp (3) with time zone NOT NULL,
	"transaction" bigint NOT NULL
);
--> statement-breakpoint
CREATE TABLE "quota_usage_totals" (
	"time_zone" text NOT NULL,
	"per" text NOT NULL,
	"start" timestamp (3) with time zone NOT NULL,
	"quota_type_id" integer NOT NULL,
	"usage" numeric NOT NULL,
	"calls" bigint NOT NULL,
	"users" bigint NOT NULL,
	CONSTRAINT "quota_usage_totals_per_check" CHECK ("quota_usage_totals"."per" IN ('day', 'hour'))
);
--> statement-breakpoint
ALTER TABLE "quota_periods" ADD COLUMN "pruned_at" timestamp (3) with time zone;--> statement-breakpoint
CREATE UNIQUE INDEX "quota_rollups_key" ON "quota_rollups" USING btree ("time_zone","day_start");--> statement-breakpoint
CREATE UNIQUE INDEX "quota_usage_days_key" ON "quota_usage_days" USING btree ("user_id","quota_type_id","time_zone","day_start");--> statement-breakpoint
CREATE INDEX "quota_usage_days_day_start_idx" ON "quota_usage_days" USING btree ("time_zone","quota_type_id","day_start");--> statement-breakpoint
CREATE UNIQUE INDEX "quota_usage_marks_key" ON "quota_usage_marks" USING btree ("user_id","at","transaction");--> statement-breakpoint
CREATE UNIQUE INDEX "quota_usage_totals_key" ON "quota_usage_totals" USING btree ("time_zone","per","start","quota_type_id");