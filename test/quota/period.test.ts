import t from 'tap'
import {
  isPeriodUnit,
  isTimeZone,
  monthOf,
  PERIOD_UNITS,
  type PeriodUnit,
  periodContaining
} from '../../src/quota/period.ts'

const ZONES = [
  'UTC',
  'Europe/Berlin',
  'America/New_York',
  'America/Havana',
  'Africa/Cairo',
  'Asia/Beirut',
  'Pacific/Apia',
  'Australia/Lord_Howe',
  'Asia/Kolkata',
  'Antarctica/Troll'
]
const MINUTE = 60_000

/** The period as text, to the minute: `2026-03-29T01:00Z/2026-03-30T00:00Z`. */
function period(unit: PeriodUnit, timeZone: string, at: string, anchor: string | null = null): string {
  const { start, end } = periodContaining(unit, { timeZone, anchor }, new Date(at))
  return `${minute(start)}/${end === null ? 'never' : minute(end)}`
}

const minute = (date: Date): string => date.toISOString().replace(':00.000Z', 'Z')

/** What is wrong with the periods at these instants: not around the instant, not joined to the next, not the same throughout. */
function faults(unit: PeriodUnit, timeZone: string, anchor: string | null, instants: Iterable<number>): string[] {
  const calendar = { timeZone, anchor }
  const found: string[] = []
  for (const at of instants) {
    const { start, end } = periodContaining(unit, calendar, new Date(at))
    const name = `${new Date(at).toISOString()} in ${start.toISOString()}/${end?.toISOString()}`
    if (end === null || start.getTime() > at || at >= end.getTime()) {
      found.push(`outside: ${name}`)
      continue
    }
    // Where an offset is not in whole hours, a clock change cuts an hour short: the next one has begun already.
    if (unit === 'hour') continue
    const next = periodContaining(unit, calendar, end)
    if (next.start.getTime() !== end.getTime()) found.push(`not joined: ${name}, then ${next.start.toISOString()}`)
    const last = periodContaining(unit, calendar, new Date(end.getTime() - 1))
    if (last.start.getTime() !== start.getTime()) found.push(`ends as another: ${name}`)
  }
  return found
}

function* every(stepMs: number, from: string, to: string): Generator<number> {
  for (let at = Date.parse(from); at < Date.parse(to); at += stepMs) yield at
}

t.test('puts every instant of several years into its period, and joins each period to the next', async t => {
  for (const zone of ZONES) {
    for (const unit of PERIOD_UNITS.filter(unit => unit !== 'never')) {
      // 107 h 59 min 41 s: drifts through all hours, minutes and weekdays.
      const instants = every(107 * 60 * MINUTE + 59 * MINUTE + 41_000, '2023-11-20T00:00:00Z', '2028-03-05T00:00:00Z')
      t.strictSame(faults(unit, zone, null, instants), [], `${zone}, ${unit}`)
    }
  }
})

t.test('puts every instant of an anchored calendar into its period, and joins each period to the next', async t => {
  for (const zone of ['UTC', 'Europe/Berlin', 'Africa/Cairo', 'Australia/Lord_Howe']) {
    for (const anchor of ['2024-01-31', '2024-02-29', '2027-08-30', '1999-12-31']) {
      for (const unit of ['week', 'month', 'year'] as const) {
        const instants = every(101 * 60 * MINUTE + 7_000, '2024-02-26T00:00:00Z', '2024-03-04T00:00:00Z')
        const wider = every(83 * 60 * MINUTE * 3, '2023-12-20T00:00:00Z', '2026-03-05T00:00:00Z')
        t.strictSame(faults(unit, zone, anchor, [...instants, ...wider]), [], `${zone}, ${unit} from ${anchor}`)
      }
    }
  }
})

t.test('loses no instant of a night in which the clocks change', async t => {
  const nights: [zone: string, from: string, to: string][] = [
    ['Europe/Berlin', '2026-03-28T20:00:00Z', '2026-03-30T04:00:00Z'],
    ['Europe/Berlin', '2026-10-24T20:00:00Z', '2026-10-26T04:00:00Z'],
    ['America/New_York', '2026-03-08T00:00:00Z', '2026-03-09T08:00:00Z'],
    ['America/New_York', '2026-11-01T00:00:00Z', '2026-11-02T08:00:00Z'],
    ['America/Havana', '2026-03-08T00:00:00Z', '2026-03-09T08:00:00Z'],
    ['America/Havana', '2026-11-01T00:00:00Z', '2026-11-02T08:00:00Z'],
    ['Africa/Cairo', '2026-04-23T16:00:00Z', '2026-04-25T00:00:00Z'],
    ['Africa/Cairo', '2026-10-29T16:00:00Z', '2026-10-31T00:00:00Z'],
    ['Asia/Beirut', '2026-03-28T16:00:00Z', '2026-03-30T00:00:00Z'],
    ['Asia/Beirut', '2026-10-24T16:00:00Z', '2026-10-26T00:00:00Z'],
    ['Pacific/Apia', '2011-12-29T06:00:00Z', '2012-01-01T12:00:00Z'],
    ['Australia/Lord_Howe', '2026-04-04T10:00:00Z', '2026-04-05T16:00:00Z'],
    ['Australia/Lord_Howe', '2026-10-03T10:00:00Z', '2026-10-04T16:00:00Z'],
    ['Antarctica/Troll', '2026-03-28T20:00:00Z', '2026-03-30T04:00:00Z'],
    ['Antarctica/Troll', '2026-10-24T20:00:00Z', '2026-10-26T04:00:00Z'],
    ['America/St_Johns', '2010-11-06T20:00:00Z', '2010-11-08T06:00:00Z']
  ]
  for (const [zone, from, to] of nights) {
    for (const unit of ['hour', 'day', 'week', 'month', 'year'] as const) {
      t.strictSame(faults(unit, zone, null, every(15 * MINUTE, from, to)), [], `${zone} ${from}, ${unit}`)
      t.strictSame(faults(unit, zone, null, every(30 * MINUTE, `${from.slice(0, -1)}.999Z`, to)), [], `${unit}, ragged`)
    }
  }
})

t.test('puts a boundary into the period that begins there, not into the one that ends', async t => {
  const cases: [PeriodUnit, string, string][] = [
    ['hour', '2026-05-01T10:00Z/2026-05-01T11:00Z', '2026-05-01T09:00Z/2026-05-01T10:00Z'],
    ['day', '2026-05-01T00:00Z/2026-05-02T00:00Z', '2026-04-30T00:00Z/2026-05-01T00:00Z'],
    ['month', '2026-05-01T00:00Z/2026-06-01T00:00Z', '2026-04-01T00:00Z/2026-05-01T00:00Z'],
    ['week', '2026-05-04T00:00Z/2026-05-11T00:00Z', '2026-04-27T00:00Z/2026-05-04T00:00Z'],
    ['year', '2027-01-01T00:00Z/2028-01-01T00:00Z', '2026-01-01T00:00Z/2027-01-01T00:00Z']
  ]
  for (const [unit, at, before] of cases) {
    const boundary = Date.parse(at.split('/')[0]!)
    t.equal(period(unit, 'UTC', new Date(boundary).toISOString()), at, `${unit}, the first millisecond`)
    t.equal(period(unit, 'UTC', new Date(boundary - 1).toISOString()), before, `${unit}, the last millisecond`)
  }
})

t.test("begins and ends periods in the user's time zone, not in UTC", async t => {
  const cases: [zone: string, unit: PeriodUnit, at: string, expected: string][] = [
    ['Europe/Berlin', 'day', '2026-01-15T23:30:00Z', '2026-01-15T23:00Z/2026-01-16T23:00Z'],
    ['Europe/Berlin', 'month', '2026-06-30T22:30:00Z', '2026-06-30T22:00Z/2026-07-31T22:00Z'],
    ['Europe/Berlin', 'month', '2026-03-15T12:00:00Z', '2026-02-28T23:00Z/2026-03-31T22:00Z'],
    ['America/New_York', 'day', '2026-01-15T04:59:59Z', '2026-01-14T05:00Z/2026-01-15T05:00Z'],
    ['America/New_York', 'year', '2027-01-01T04:00:00Z', '2026-01-01T05:00Z/2027-01-01T05:00Z'],
    ['America/New_York', 'week', '2026-01-12T03:00:00Z', '2026-01-05T05:00Z/2026-01-12T05:00Z'],
    ['Asia/Kolkata', 'day', '2026-01-15T18:30:00Z', '2026-01-15T18:30Z/2026-01-16T18:30Z'],
    ['Asia/Kolkata', 'hour', '2026-01-15T10:45:00Z', '2026-01-15T10:30Z/2026-01-15T11:30Z'],
    ['Asia/Kolkata', 'hour', '2026-01-15T10:15:00Z', '2026-01-15T09:30Z/2026-01-15T10:30Z']
  ]
  for (const [zone, unit, at, expected] of cases) t.equal(period(unit, zone, at), expected, `${zone}, ${unit}, ${at}`)
})

t.test('makes two periods of the hour that is repeated when clocks go back', async t => {
  t.equal(period('hour', 'Europe/Berlin', '2026-10-25T00:30:00Z'), '2026-10-25T00:00Z/2026-10-25T01:00Z', '02:30 CEST')
  t.equal(period('hour', 'Europe/Berlin', '2026-10-25T01:30:00Z'), '2026-10-25T01:00Z/2026-10-25T02:00Z', '02:30 CET')
  t.equal(
    period('hour', 'America/New_York', '2026-11-01T05:59:59Z'),
    '2026-11-01T05:00Z/2026-11-01T06:00Z',
    '01:59 EDT'
  )
  t.equal(
    period('hour', 'America/New_York', '2026-11-01T06:00:00Z'),
    '2026-11-01T06:00Z/2026-11-01T07:00Z',
    '01:00 EST'
  )
})

t.test('begins hours by the offset in force where clocks change by half an hour', async t => {
  const cases: [at: string, expected: string][] = [
    ['2026-04-04T14:59:59Z', '2026-04-04T14:00Z/2026-04-04T15:00Z'],
    ['2026-04-04T15:00:00Z', '2026-04-04T14:30Z/2026-04-04T15:30Z'],
    ['2026-10-03T15:29:59Z', '2026-10-03T14:30Z/2026-10-03T15:30Z'],
    ['2026-10-03T15:30:00Z', '2026-10-03T15:00Z/2026-10-03T16:00Z']
  ]
  for (const [at, expected] of cases) t.equal(period('hour', 'Australia/Lord_Howe', at), expected, at)
})

t.test('makes a day as long as a clock change leaves it, even if midnight is missing or comes twice', async t => {
  const cases: [zone: string, at: string, expected: string, why: string][] = [
    ['Europe/Berlin', '2026-03-29T12:00:00Z', '2026-03-28T23:00Z/2026-03-29T22:00Z', '23 h'],
    ['Europe/Berlin', '2026-10-25T12:00:00Z', '2026-10-24T22:00Z/2026-10-25T23:00Z', '25 h'],
    ['Antarctica/Troll', '2026-03-29T12:00:00Z', '2026-03-29T00:00Z/2026-03-29T22:00Z', '22 h'],
    ['Antarctica/Troll', '2026-10-25T12:00:00Z', '2026-10-24T22:00Z/2026-10-26T00:00Z', '26 h'],
    ['Australia/Lord_Howe', '2026-04-05T06:00:00Z', '2026-04-04T13:00Z/2026-04-05T13:30Z', '24 h 30 min'],
    ['Australia/Lord_Howe', '2026-10-04T06:00:00Z', '2026-10-03T13:30Z/2026-10-04T13:00Z', '23 h 30 min'],
    ['America/Havana', '2026-03-08T12:00:00Z', '2026-03-08T05:00Z/2026-03-09T04:00Z', 'begins at 01:00'],
    ['America/Havana', '2026-03-08T04:59:59Z', '2026-03-07T05:00Z/2026-03-08T05:00Z', 'the day before is whole'],
    ['America/Havana', '2026-11-01T04:30:00Z', '2026-11-01T04:00Z/2026-11-02T05:00Z', 'the first 00:30'],
    ['America/Havana', '2026-11-01T05:30:00Z', '2026-11-01T04:00Z/2026-11-02T05:00Z', 'the second 00:30'],
    ['Africa/Cairo', '2026-04-24T12:00:00Z', '2026-04-23T22:00Z/2026-04-24T21:00Z', 'begins at 01:00'],
    ['Africa/Cairo', '2026-10-29T21:30:00Z', '2026-10-28T21:00Z/2026-10-29T22:00Z', '23:30 comes twice'],
    ['Asia/Beirut', '2026-03-29T12:00:00Z', '2026-03-28T22:00Z/2026-03-29T21:00Z', 'begins at 01:00'],
    ['Asia/Beirut', '2026-10-24T21:30:00Z', '2026-10-23T21:00Z/2026-10-24T22:00Z', '23:30 comes twice'],
    ['America/St_Johns', '2010-11-07T02:45:00Z', '2010-11-07T02:30Z/2010-11-08T03:30Z', 'from 00:01 back to 23:01']
  ]
  for (const [zone, at, expected, why] of cases) t.equal(period('day', zone, at), expected, `${zone}: ${why}`)
})

t.test('begins a week, month or year whose first day has no midnight when that day begins', async t => {
  t.equal(
    period('month', 'America/Havana', '2026-03-20T12:00:00Z', '2026-01-08'),
    '2026-03-08T05:00Z/2026-04-08T04:00Z',
    'Havana, counted from the 8th'
  )
  t.equal(
    period('week', 'Asia/Beirut', '2026-03-30T12:00:00Z', '2026-03-22'),
    '2026-03-28T22:00Z/2026-04-04T21:00Z',
    'Beirut, counted from a Sunday'
  )
  t.equal(
    period('year', 'Africa/Cairo', '2026-06-01T12:00:00Z', '2020-04-24'),
    '2026-04-23T22:00Z/2027-04-23T22:00Z',
    'Cairo, counted from 24 April'
  )
})

t.test('leaves out the day that Samoa skipped, 30 December 2011', async t => {
  t.equal(period('day', 'Pacific/Apia', '2011-12-30T09:59:59Z'), '2011-12-29T10:00Z/2011-12-30T10:00Z', 'the 29th')
  t.equal(period('day', 'Pacific/Apia', '2011-12-30T10:00:00Z'), '2011-12-30T10:00Z/2011-12-31T10:00Z', 'the 31st')
  t.equal(period('week', 'Pacific/Apia', '2011-12-30T10:00:00Z'), '2011-12-26T10:00Z/2012-01-01T10:00Z', '6 days')
  t.equal(period('month', 'Pacific/Apia', '2011-12-30T10:00:00Z'), '2011-12-01T10:00Z/2011-12-31T10:00Z', '30 days')
  t.equal(period('year', 'Pacific/Apia', '2011-12-30T09:59:59Z'), '2011-01-01T10:00Z/2011-12-31T10:00Z', '364 days')
  t.equal(
    period('month', 'Pacific/Apia', '2012-01-05T00:00:00Z', '2011-10-30'),
    '2011-12-30T10:00Z/2012-01-29T10:00Z',
    'an anchor on that day begins a period on the day after'
  )
})

t.test('knows leap days and the lengths of months', async t => {
  const cases: [unit: PeriodUnit, at: string, expected: string][] = [
    ['day', '2024-02-29T12:00:00Z', '2024-02-29T00:00Z/2024-03-01T00:00Z'],
    ['day', '2026-02-28T12:00:00Z', '2026-02-28T00:00Z/2026-03-01T00:00Z'],
    ['month', '2024-02-10T12:00:00Z', '2024-02-01T00:00Z/2024-03-01T00:00Z'],
    ['month', '2026-02-10T12:00:00Z', '2026-02-01T00:00Z/2026-03-01T00:00Z'],
    ['month', '2100-02-28T12:00:00Z', '2100-02-01T00:00Z/2100-03-01T00:00Z'],
    ['month', '2026-01-31T23:59:59Z', '2026-01-01T00:00Z/2026-02-01T00:00Z'],
    ['month', '2026-12-31T23:59:59Z', '2026-12-01T00:00Z/2027-01-01T00:00Z'],
    ['year', '2024-12-31T23:59:59Z', '2024-01-01T00:00Z/2025-01-01T00:00Z'],
    ['year', '1969-07-20T20:17:00Z', '1969-01-01T00:00Z/1970-01-01T00:00Z'],
    ['hour', '1969-07-20T20:17:00Z', '1969-07-20T20:00Z/1969-07-20T21:00Z']
  ]
  for (const [unit, at, expected] of cases) t.equal(period(unit, 'UTC', at), expected, `${unit} ${at}`)
})

t.test('begins weeks on Monday (ISO), even across New Year', async t => {
  const cases: [at: string, expected: string][] = [
    ['2026-12-28T00:00:00Z', '2026-12-28T00:00Z/2027-01-04T00:00Z'],
    ['2026-12-31T23:59:59Z', '2026-12-28T00:00Z/2027-01-04T00:00Z'],
    ['2027-01-01T00:00:00Z', '2026-12-28T00:00Z/2027-01-04T00:00Z'],
    ['2027-01-03T23:59:59Z', '2026-12-28T00:00Z/2027-01-04T00:00Z'],
    ['2023-01-01T12:00:00Z', '2022-12-26T00:00Z/2023-01-02T00:00Z'],
    ['2024-01-01T00:00:00Z', '2024-01-01T00:00Z/2024-01-08T00:00Z'],
    ['2024-02-29T12:00:00Z', '2024-02-26T00:00Z/2024-03-04T00:00Z']
  ]
  for (const [at, expected] of cases) t.equal(period('week', 'UTC', at), expected, at)
})

t.test('clamps an anchor on the 31st: 31 January → 28 February → 31 March → 30 April', async t => {
  const cases: [at: string, expected: string][] = [
    ['2026-01-30T12:00:00Z', '2025-12-31T00:00Z/2026-01-31T00:00Z'],
    ['2026-01-31T00:00:00Z', '2026-01-31T00:00Z/2026-02-28T00:00Z'],
    ['2026-02-27T23:59:59Z', '2026-01-31T00:00Z/2026-02-28T00:00Z'],
    ['2026-02-28T00:00:00Z', '2026-02-28T00:00Z/2026-03-31T00:00Z'],
    ['2026-03-30T23:59:59Z', '2026-02-28T00:00Z/2026-03-31T00:00Z'],
    ['2026-03-31T00:00:00Z', '2026-03-31T00:00Z/2026-04-30T00:00Z'],
    ['2026-04-30T00:00:00Z', '2026-04-30T00:00Z/2026-05-31T00:00Z'],
    ['2028-02-28T12:00:00Z', '2028-01-31T00:00Z/2028-02-29T00:00Z'],
    ['2028-02-29T00:00:00Z', '2028-02-29T00:00Z/2028-03-31T00:00Z']
  ]
  for (const [at, expected] of cases) t.equal(period('month', 'UTC', at, '2026-01-31'), expected, at)
})

t.test('begins years anchored on 29 February on the 28th where there is no 29th', async t => {
  const cases: [at: string, expected: string][] = [
    ['2024-02-29T00:00:00Z', '2024-02-29T00:00Z/2025-02-28T00:00Z'],
    ['2025-02-27T23:59:59Z', '2024-02-29T00:00Z/2025-02-28T00:00Z'],
    ['2025-02-28T00:00:00Z', '2025-02-28T00:00Z/2026-02-28T00:00Z'],
    ['2028-02-28T12:00:00Z', '2027-02-28T00:00Z/2028-02-29T00:00Z'],
    ['2028-02-29T00:00:00Z', '2028-02-29T00:00Z/2029-02-28T00:00Z']
  ]
  for (const [at, expected] of cases) t.equal(period('year', 'UTC', at, '2024-02-29'), expected, at)
})

t.test('begins weeks on the weekday of the anchor', async t => {
  // 1 January 2026 is a Thursday.
  const cases: [at: string, expected: string][] = [
    ['2026-01-01T00:00:00Z', '2026-01-01T00:00Z/2026-01-08T00:00Z'],
    ['2026-01-07T23:59:59Z', '2026-01-01T00:00Z/2026-01-08T00:00Z'],
    ['2026-01-08T00:00:00Z', '2026-01-08T00:00Z/2026-01-15T00:00Z'],
    ['2027-01-01T12:00:00Z', '2026-12-31T00:00Z/2027-01-07T00:00Z']
  ]
  for (const [at, expected] of cases) t.equal(period('week', 'UTC', at, '2026-01-01'), expected, at)
})

t.test('counts back from an anchor in the future', async t => {
  t.equal(period('month', 'UTC', '2026-02-15T00:00:00Z', '2030-01-31'), '2026-01-31T00:00Z/2026-02-28T00:00Z')
  t.equal(period('month', 'UTC', '2026-02-28T00:00:00Z', '2030-01-31'), '2026-02-28T00:00Z/2026-03-31T00:00Z')
  t.equal(period('year', 'UTC', '2026-02-15T00:00:00Z', '2028-02-29'), '2025-02-28T00:00Z/2026-02-28T00:00Z')
  t.equal(period('week', 'UTC', '2026-06-30T23:59:59Z', '2026-07-08'), '2026-06-24T00:00Z/2026-07-01T00:00Z')
  t.equal(period('week', 'UTC', '2026-07-01T00:00:00Z', '2026-07-08'), '2026-07-01T00:00Z/2026-07-08T00:00Z')
})

t.test("begins periods on the anchor's day in the user's time zone", async t => {
  t.equal(
    period('month', 'America/New_York', '2026-03-15T03:59:59Z', '2026-01-15'),
    '2026-02-15T05:00Z/2026-03-15T04:00Z',
    'still the 14th in New York, and DST began within the period'
  )
  t.equal(
    period('month', 'America/New_York', '2026-03-15T04:00:00Z', '2026-01-15'),
    '2026-03-15T04:00Z/2026-04-15T04:00Z',
    'the 15th'
  )
})

t.test('ignores the anchor for hours and days', async t => {
  for (const unit of ['hour', 'day'] as const) {
    const at = '2026-02-15T10:20:30Z'
    t.equal(period(unit, 'Europe/Berlin', at, '2026-01-31'), period(unit, 'Europe/Berlin', at), unit)
  }
})

t.test('gives a period that never resets no end, and begins it at the given instant', async t => {
  const at = new Date('2026-02-15T10:20:30.456Z')
  t.strictSame(periodContaining('never', { timeZone: 'Europe/Berlin', anchor: '2026-01-31' }, at), {
    start: at,
    end: null
  })
})

t.test(
  'bounds a month by midnights of the time zone, even if the clocks change in it or skip its first midnight',
  async t => {
    const cases: [month: string, zone: string, expected: string, why: string][] = [
      ['2026-11', 'UTC', '2026-11-01T00:00Z/2026-12-01T00:00Z', '30 days'],
      ['2026-12', 'UTC', '2026-12-01T00:00Z/2027-01-01T00:00Z', 'into the next year'],
      ['2028-02', 'Asia/Kolkata', '2028-01-31T18:30Z/2028-02-29T18:30Z', '29 days'],
      ['2026-03', 'Europe/Berlin', '2026-02-28T23:00Z/2026-03-31T22:00Z', 'an hour short'],
      ['2026-10', 'Europe/Berlin', '2026-09-30T22:00Z/2026-10-31T23:00Z', 'an hour long'],
      ['2023-10', 'America/Asuncion', '2023-10-01T04:00Z/2023-11-01T03:00Z', 'begins at 01:00'],
      ['2023-09', 'America/Asuncion', '2023-09-01T04:00Z/2023-10-01T04:00Z', 'ends at 01:00'],
      ['2011-12', 'Pacific/Apia', '2011-12-01T10:00Z/2011-12-31T10:00Z', 'a day is missing']
    ]
    for (const [month, zone, expected, why] of cases) {
      const { start, end } = monthOf(month, zone)
      t.equal(`${minute(start)}/${minute(end!)}`, expected, `${month} in ${zone}: ${why}`)
      t.strictSame(periodContaining('month', { timeZone: zone, anchor: null }, start), { start, end }, 'like a period')
    }
  }
)

t.test('takes IANA names as time zones, and nothing else', async t => {
  for (const zone of [...ZONES, 'Asia/Calcutta', 'Etc/GMT+5']) t.equal(isTimeZone(zone), true, zone)
  const refused = ['+05:30', '-08', 'Foo+5', 'UTC+5', 'Z', '', ' UTC', 'Europe/Berlin\n', 'Europe/Nowhere', '__proto__']
  for (const zone of [...refused, 5, null, undefined, {}, ['UTC']])
    t.equal(isTimeZone(zone), false, JSON.stringify(zone))
})

t.test('takes the six units, and nothing else', async t => {
  t.strictSame([...PERIOD_UNITS], ['hour', 'day', 'week', 'month', 'year', 'never'])
  for (const unit of PERIOD_UNITS) t.equal(isPeriodUnit(unit), true, unit)
  for (const unit of ['minute', 'Month', 'months', '', null, undefined, 0])
    t.equal(isPeriodUnit(unit), false, String(unit))
})
