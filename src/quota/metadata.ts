// What may go into a usage log's metadata: JSON, bounded before the database sees it.

export type Metadata = Record<string, unknown>

/** Deeper JSON wedges the embedded engine (seen at 6 000 levels); nobody reads it either. */
const MAX_DEPTH = 8
const MAX_BYTES = 4096
/** More values than this cannot fit into MAX_BYTES, so the rest is not looked at. */
const MAX_VALUES = 2048

/**
 * The metadata as it is stored. What does not fit, or cannot be read, is left out and the row says so with `truncated: true`:
 * the charge matters more than its note.
 */
export function boundMetadata(metadata: unknown): Metadata {
  if (metadata === undefined || metadata === null) return {}
  const pruning = { left: MAX_VALUES, isCut: false }
  try {
    if (isEmpty(metadata)) return {}
    const kept = prune(metadata, 1, pruning)
    if (typeof kept !== 'object' || kept === null || Array.isArray(kept)) return { truncated: true }
    if (!pruning.isCut && Buffer.byteLength(JSON.stringify(kept)) <= MAX_BYTES) return kept as Metadata
    return { ...Object.fromEntries(takeWhileSmall(Object.entries(kept))), truncated: true }
  } catch {
    // A getter or a toJSON of the application threw.
    return { truncated: true }
  }
}

/** It nearly always is, and to prune and measure nothing took a tenth of a microsecond. */
function isEmpty(metadata: unknown): boolean {
  if (typeof metadata !== 'object' || Array.isArray(metadata)) return false
  for (const _ in metadata) return false
  return typeof (metadata as { toJSON?: unknown }).toJSON !== 'function'
}

function takeWhileSmall(entries: readonly [string, unknown][]): readonly [string, unknown][] {
  let bytes = '{"truncated":true}'.length
  const end = entries.findIndex(([key, value]) => {
    bytes += Buffer.byteLength(JSON.stringify({ [key]: value }))
    return bytes > MAX_BYTES
  })
  return end < 0 ? entries : entries.slice(0, end)
}

interface Pruning {
  left: number
  isCut: boolean
}

/** Plain JSON, at most MAX_DEPTH deep, of characters that jsonb accepts. */
function prune(value: unknown, depth: number, pruning: Pruning, isJson = false): unknown {
  if (!isJson && --pruning.left < 0) return cut(pruning)
  // A longer one does not fit, and need not be read to its end to see that.
  if (typeof value === 'string') return storable(value.slice(0, MAX_BYTES + 1))
  if (typeof value === 'bigint') return value.toString()
  if (typeof value !== 'object' || value === null)
    return typeof value === 'function' || typeof value === 'symbol' ? null : value
  const json = (value as { toJSON?: unknown }).toJSON
  // Called once, as by JSON.stringify: some return themselves.
  if (typeof json === 'function' && !isJson) return prune(json.call(value), depth, pruning, true)
  if (depth > MAX_DEPTH) return cut(pruning)
  if (Array.isArray(value)) return some(value, pruning).map(item => prune(item, depth + 1, pruning))
  const entries = some(Object.keys(value), pruning).map(key => [key, (value as Metadata)[key]] as const)
  const present = entries.filter(([, item]) => item !== undefined)
  return Object.fromEntries(present.map(([key, item]) => [storable(key), prune(item, depth + 1, pruning)]))
}

function cut(pruning: Pruning): string {
  pruning.isCut = true
  return '…'
}

function some<T>(all: readonly T[], pruning: Pruning): readonly T[] {
  if (all.length <= MAX_VALUES) return all
  pruning.isCut = true
  return all.slice(0, MAX_VALUES)
}

/** jsonb refuses U+0000 (SQLSTATE 22P05) and lone surrogates (22P02). */
// biome-ignore lint/suspicious/noControlCharactersInRegex: U+0000 is what it takes out
const storable = (text: string): string => text.toWellFormed().replace(/\u0000/g, '\ufffd')
