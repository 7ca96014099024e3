// Takes the amounts and holds them: counters and reservation rows in one statement, all charges or none.

import type { Database } from '../database.ts'
import { ADMITTED_ROWS, type Admission, type AdmissionOrder, admit, admitting } from './admit.ts'
import { expiryOf } from './held.ts'

const reserving = (several: boolean) => `
WITH ${admitting({ hold: true, several })}, held AS (
  INSERT INTO quota_reservations (user_id, id, quota_type_id, amount, period_start, created_at, expires_at)
  SELECT $1, a.id, a.quota_type_id, a.amount, a.period_start, a.admitted_at, ${expiryOf('a.admitted_at', '$4::int', 'clock.at')}
    FROM admitted a CROSS JOIN clock
)
${ADMITTED_ROWS}`

const RESERVE_ONE = reserving(false)
const RESERVE_SEVERAL = reserving(true)

/** The reservation expires `leaseMs` from now, unless it is renewed. */
export const reserve = (db: Database, order: AdmissionOrder & { leaseMs: number }): Promise<Admission> =>
  admit(db, order.charges.length > 1 ? RESERVE_SEVERAL : RESERVE_ONE, order, [order.leaseMs])
