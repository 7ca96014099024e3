CREATE TABLE "quota_denials" (
	"user_id" text NOT NULL,
	"quota_type_id" integer NOT NULL,
	"hour" timestamp (3) with time zone NOT NULL,
	"denials" bigint NOT NULL,
	CONSTRAINT "quota_denials_pkey" PRIMARY KEY("user_id","quota_type_id","hour"),
	CONSTRAINT "quota_denials_denials_check" CHECK ("quota_denials"."denials" > 0)
);
--> statement-breakpoint
ALTER TABLE "quota_denials" ADD CONSTRAINT "quota_denials_counter_fk" FOREIGN KEY ("user_id","quota_type_id") REFERENCES "public"."quota_limits"("user_id","quota_type_id") ON DELETE cascade ON UPDATE no action;--> statement-breakpoint
CREATE INDEX "quota_denials_quota_type_id_hour_idx" ON "quota_denials" USING btree ("quota_type_id","hour");--> statement-breakpoint
CREATE INDEX "quota_audit_logs_user_id_created_at_idx" ON "quota_audit_logs" USING btree ("user_id","created_at","id");