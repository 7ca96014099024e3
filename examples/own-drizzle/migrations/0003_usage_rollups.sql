CREATE TABLE "quota_rollups" (
	"time_zone" text NOT NULL,
	"day_start" timestamp (3) with time zone NOT NULL,
	"day_end" timestamp (3) with time zone NOT NULL,
	"rolled_until" timestamp (3) with time zone NOT NULL,
	CONSTRAINT "quota_rollups_pkey" PRIMARY KEY("time_zone","day_start"),
	CONSTRAINT "quota_rollups_rolled_until_check" CHECK ("quota_rollups"."rolled_until" BETWEEN "quota_rollups"."day_start" AND "quota_rollups"."day_end")
);
--> statement-breakpoint
CREATE TABLE "quota_usage_days" (
	"time_zone" text NOT NULL,
	"day_start" timestamp (3) with time zone NOT NULL,
	"quota_type_id" integer NOT NULL,
	"user_id" text NOT NULL,
	"usage" bigint NOT NULL,
	"calls" bigint NOT NULL,
	CONSTRAINT "quota_usage_days_pkey" PRIMARY KEY("time_zone","quota_type_id","day_start","user_id")
);
--> statement-breakpoint
CREATE TABLE "quota_usage_hours" (
	"time_zone" text NOT NULL,
	"hour_start" timestamp (3) with time zone NOT NULL,
	"quota_type_id" integer NOT NULL,
	"usage" numeric NOT NULL,
	"calls" bigint NOT NULL,
	"users" bigint NOT NULL,
	CONSTRAINT "quota_usage_hours_pkey" PRIMARY KEY("time_zone","hour_start","quota_type_id")
);
--> statement-breakpoint
CREATE TABLE "quota_usage_marks" (
	"at" timestamp (3) with time zone NOT NULL,
	"transaction" bigint NOT NULL,
	CONSTRAINT "quota_usage_marks_pkey" PRIMARY KEY("at","transaction")
);
--> statement-breakpoint
CREATE INDEX "quota_usage_days_user_id_idx" ON "quota_usage_days" USING btree ("user_id","quota_type_id","time_zone","day_start");