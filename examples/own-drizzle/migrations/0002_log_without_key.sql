ALTER TABLE "usage_logs" DROP CONSTRAINT "usage_logs_counter_fk";
