ALTER TABLE "quota_rollups" REPLICA IDENTITY USING INDEX "quota_rollups_key";--> statement-breakpoint
ALTER TABLE "quota_usage_days" REPLICA IDENTITY USING INDEX "quota_usage_days_key";--> statement-breakpoint
ALTER TABLE "quota_usage_totals" REPLICA IDENTITY USING INDEX "quota_usage_totals_key";--> statement-breakpoint
ALTER TABLE "quota_usage_marks" REPLICA IDENTITY USING INDEX "quota_usage_marks_key";