import t from 'tap'
import { dayOf, seriesOf } from '../../src/quota/series.ts'

const iso = (dates: readonly Date[]) => dates.map(date => date.toISOString())
const at = (text: string) => new Date(text)

t.test('covers the last days, including today up to its end', async t => {
  const { starts, end } = seriesOf('day', 3, 'UTC', at('2026-03-01T23:59:59.999Z'))
  t.strictSame(iso(starts), ['2026-02-27T00:00:00.000Z', '2026-02-28T00:00:00.000Z', '2026-03-01T00:00:00.000Z'])
  t.equal(end.toISOString(), '2026-03-02T00:00:00.000Z')
  t.strictSame(iso(seriesOf('day', 1, 'UTC', at('2026-03-01T00:00:00Z')).starts), ['2026-03-01T00:00:00.000Z'])
})

t.test("begins and ends at the zone's midnights", async t => {
  const { starts, end } = seriesOf('day', 2, 'Asia/Kolkata', at('2026-03-01T19:00:00Z'))
  t.strictSame(iso(starts), ['2026-02-28T18:30:00.000Z', '2026-03-01T18:30:00.000Z'])
  t.equal(end.toISOString(), '2026-03-02T18:30:00.000Z')
})

t.test('has 23 hours on the day when clocks go forward, 25 when they go back, and no gap', async t => {
  for (const [day, hours] of [
    ['2026-03-29T10:00:00Z', 23],
    ['2026-10-25T10:00:00Z', 25],
    ['2026-10-26T10:00:00Z', 24]
  ] as const) {
    const { starts, end } = seriesOf('hour', 1, 'Europe/Berlin', at(day))
    t.equal(starts.length, hours, day)
    const edges = [...starts, end].map(Number)
    t.ok(edges.slice(1).every((edge, i) => edge - edges[i]! === 3_600_000))
  }
  t.equal(seriesOf('hour', 365, 'Europe/Berlin', at('2026-12-31T10:00:00Z')).starts.length, 8760)
  t.equal(seriesOf('day', 365, 'Europe/Berlin', at('2026-12-31T10:00:00Z')).starts.length, 365)
})

t.test('leaves no gap where clocks change by half an hour, or skip midnight', async t => {
  const half = seriesOf('hour', 1, 'Australia/Lord_Howe', at('2026-10-04T10:00:00+11:00'))
  t.equal(half.starts.length, 24, 'the last piece is half an hour')
  t.equal(half.end.getTime() - half.starts.at(-1)!.getTime(), 1_800_000)
  const days = seriesOf('day', 4, 'Australia/Lord_Howe', at('2026-10-06T10:00:00+11:00'))
  const hours = seriesOf('hour', 4, 'Australia/Lord_Howe', at('2026-10-06T10:00:00+11:00'))
  for (const midnight of days.starts)
    t.ok(iso(hours.starts).includes(midnight.toISOString()), 'every day begins with an hour of its own')
  t.equal(hours.starts.length, 4 * 24)
  const skipped = seriesOf('day', 2, 'Africa/Cairo', at('2026-04-24T12:00:00+03:00'))
  t.strictSame(iso(skipped.starts), ['2026-04-22T22:00:00.000Z', '2026-04-23T22:00:00.000Z'])
})

t.test('names the day on which an instant falls in a time zone', async t => {
  t.equal(dayOf(at('2026-11-24T23:30:00Z'), 'UTC'), '2026-11-24')
  t.equal(dayOf(at('2026-11-24T23:30:00Z'), 'Europe/Berlin'), '2026-11-25')
  t.equal(dayOf(at('2026-11-24T03:30:00Z'), 'America/New_York'), '2026-11-23')
})
