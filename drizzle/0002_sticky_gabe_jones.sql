ALTER TABLE "quota_reservations" DROP CONSTRAINT "quota_reservations_counter_fk";
--> statement-breakpoint
ALTER TABLE "usage_logs" DROP CONSTRAINT "usage_logs_counter_fk";
