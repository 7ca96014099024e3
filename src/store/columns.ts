// What columns are made of, the same in every table.
import { type SQL, sql } from 'drizzle-orm'
import { type AnyPgColumn, bigint, timestamp } from 'drizzle-orm/pg-core'

/** Instants carry milliseconds, so that a JavaScript `Date` holds them whole and equality survives the trip. */
export const instant = (name: string) => timestamp(name, { withTimezone: true, precision: 3 })
export const amount = (name: string) => bigint(name, { mode: 'number' })

/** 2^53 − 1: the largest whole number that JSON and JavaScript carry exactly. */
export const maxAmount = sql.raw('9007199254740991')
export const isAmount = (column: AnyPgColumn): SQL => sql`${column} BETWEEN 0 AND ${maxAmount}`
