// GET /statistics/:quotaType: what a quota type saw, in all, by day or hour, and by user.
import type { FastifyInstance } from 'fastify'
import { dayOf } from '../quota/series.ts'
import { type Statistics, type StatisticsOrder, viewStatistics } from '../store/operator/view-statistics.ts'
import type { AdminContext } from './context.ts'
import { queryOf, readChoice, readCount, readTimeZone } from './input.ts'
import { query, refusals, TIME, TYPE_EXAMPLE } from './schemas.ts'

const DAYS = {
  type: 'integer',
  minimum: 1,
  maximum: 365,
  default: 30,
  description: 'The number of days in the time zone, today included.'
} as const

const INTERVAL = {
  type: 'string',
  enum: ['hour', 'day'],
  default: 'day',
  description: 'The length of one entry of the series.'
} as const

const TIME_ZONE = {
  type: 'string',
  default: 'UTC',
  description:
    'The IANA time zone of the days and hours. Denials are counted by UTC hour: where the zone is not whole hours off, they fall into the entry in which that hour begins.',
  examples: ['Europe/Berlin']
} as const

const TOP_USERS = 10

const count = (description: string) => ({ type: 'integer', description }) as const
const USAGE = count('What was charged, in the base unit; for a level, its growth. A sum above 2^53 is rounded.')
const CALLS = count('Rows of the usage log.')
const DENIALS = count('Requests and calls that were refused.')

const ANSWER = {
  type: 'object',
  description: 'What was charged and denied.',
  required: [
    'quota_type',
    'days',
    'interval',
    'time_zone',
    'start',
    'end',
    'total_usage',
    'total_calls',
    'unique_users',
    'avg_usage_per_call',
    'peak_usage_date',
    'denials',
    'series',
    'top_users'
  ],
  properties: {
    quota_type: { type: 'string' },
    days: { type: 'integer' },
    interval: { type: 'string', enum: INTERVAL.enum },
    time_zone: { type: 'string' },
    start: { ...TIME, description: 'When the first day begins.' },
    end: { ...TIME, description: 'When today ends.' },
    total_usage: USAGE,
    total_calls: CALLS,
    unique_users: { type: 'integer' },
    avg_usage_per_call: { type: 'number', description: 'Rounded to two decimals; 0 if there were no calls.' },
    peak_usage_date: {
      type: ['string', 'null'],
      format: 'date',
      description: 'The day with the most usage, the earliest if several tie; null if there was none.'
    },
    denials: DENIALS,
    series: {
      type: 'array',
      description: 'Every day or hour, even if nothing happened in it; their sum is the total.',
      items: {
        type: 'object',
        required: ['start', 'usage', 'calls', 'users', 'denials'],
        properties: { start: TIME, usage: USAGE, calls: CALLS, users: { type: 'integer' }, denials: DENIALS }
      }
    },
    top_users: {
      type: 'array',
      description: `The ${TOP_USERS} users who used most.`,
      items: {
        type: 'object',
        required: ['user_id', 'usage', 'calls'],
        properties: { user_id: { type: 'string' }, usage: USAGE, calls: CALLS }
      }
    }
  }
} as const

const PARAMS = {
  type: 'object',
  required: ['quotaType'],
  properties: { quotaType: { type: 'string', description: "A quota type's key.", examples: [TYPE_EXAMPLE] } }
} as const

export function viewStatisticsRoute(
  admin: FastifyInstance,
  { db, types, flushDenials, wantStatistics }: AdminContext
): void {
  admin.route({
    method: 'GET',
    url: '/statistics/:quotaType',
    schema: {
      operationId: 'viewQuotaStatistics',
      summary: 'Statistics of a quota type',
      params: PARAMS,
      querystring: query({ days: DAYS, interval: INTERVAL, time_zone: TIME_ZONE }),
      response: { ...refusals(404, 414), 200: ANSWER }
    },
    handler: async request => {
      const given = queryOf(request)
      const days = readCount(given, 'days', DAYS)
      const interval = readChoice(given, 'interval', INTERVAL)
      const timeZone = readTimeZone(given, 'time_zone', TIME_ZONE)
      const { quotaType } = request.params as { quotaType: string }
      const { id: typeId } = await types.find(quotaType, 'named in the path')
      await flushDenials()
      wantStatistics(timeZone, days)
      const order = { typeId, days, interval, timeZone, topUsers: TOP_USERS }
      return document(quotaType, order, await viewStatistics(db, order))
    }
  })
}

function document(quotaType: string, { days, interval, timeZone }: StatisticsOrder, statistics: Statistics) {
  const { from, until, series, peakDay } = statistics
  const sum = (field: 'usage' | 'calls' | 'denials') => series.reduce((total, piece) => total + piece[field], 0)
  const usage = sum('usage')
  const calls = sum('calls')
  return {
    quota_type: quotaType,
    days,
    interval,
    time_zone: timeZone,
    start: from.toISOString(),
    end: until.toISOString(),
    total_usage: usage,
    total_calls: calls,
    unique_users: statistics.uniqueUsers,
    avg_usage_per_call: calls === 0 ? 0 : Math.round((usage / calls) * 100) / 100,
    peak_usage_date: peakDay ? dayOf(peakDay, timeZone) : null,
    denials: sum('denials'),
    series: series.map(piece => ({ ...piece, start: piece.start.toISOString() })),
    top_users: statistics.topUsers.map(({ userId, ...rest }) => ({ user_id: userId, ...rest }))
  }
}
