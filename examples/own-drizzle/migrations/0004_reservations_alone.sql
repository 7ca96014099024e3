ALTER TABLE "quota_limits" DROP CONSTRAINT "quota_limits_reserved_amount_check";--> statement-breakpoint
ALTER TABLE "quota_periods" DROP CONSTRAINT "quota_periods_reserved_amount_check";