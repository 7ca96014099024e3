DROP INDEX "quota_usage_days_day_start_idx";--> statement-breakpoint
CREATE INDEX "quota_usage_days_usage_idx" ON "quota_usage_days" USING btree ("time_zone","quota_type_id","day_start","usage");