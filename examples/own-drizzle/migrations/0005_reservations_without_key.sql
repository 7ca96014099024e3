ALTER TABLE "quota_reservations" DROP CONSTRAINT "quota_reservations_counter_fk";
