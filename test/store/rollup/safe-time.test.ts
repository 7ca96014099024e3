import t from 'tap'
import { UNMARKED_MINUTES } from '../../../src/store/rollup/mark-usage.ts'
import { SafeTime } from '../../../src/store/rollup/safe-time.ts'

const MINUTE_MS = 60_000
/** Two minutes more than go unmarked, for a clock that is set back. */
const BEHIND_MS = (UNMARKED_MINUTES + 2) * MINUTE_MS

t.test('once all transactions of a moment have ended, the log up to a margin before it is complete', async t => {
  const safe = new SafeTime()
  const see = (minute: number, oldest: bigint, newest: bigint) => {
    safe.see({ at: minute * MINUTE_MS, oldest, newest })
    return (safe.until + BEHIND_MS) / MINUTE_MS
  }
  t.equal(see(0, 5n, 9n), Number.NEGATIVE_INFINITY)
  t.equal(see(1, 5n, 12n), Number.NEGATIVE_INFINITY, 'one that ran at minute 0 still runs')
  t.equal(see(2, 9n, 15n), Number.NEGATIVE_INFINITY, 'the newest of minute 0 still runs')
  t.equal(see(3, 10n, 20n), 0, 'all that ran at minute 0 have ended')
  t.equal(see(4, 20n, 22n), 0)
  t.equal(see(5, 21n, 25n), 3, 'all that ran at minute 3 have ended, too')
})
