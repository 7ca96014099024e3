// What may go into a usage log's metadata: JSON, bounded before the database sees it.

export type Metadata = Record<string, unknown>

/** Deeper JSON wedges the embedded engine (seen at 6 000 levels); nobody reads it either. */
const MAX_DEPTH = 8
const MAX_BYTES = 4096
/** No more values than this fit into the bytes; beyond them the rest is not even looked at. */
const MAX_VALUES = 2048

/**
 * The metadata as it is stored. What does not fit, or cannot be read, is left out and the row says so with `truncated: true`:
 * the charge counts more than its note.
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
    // A getter or a toJSON of the application's threw.
    return { truncated: true }
  }
}

/** As nearly always: to prune and measure nothing took a tenth of a microsecond. */
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

/** Plain JSON, at most MAX_DEPTH deep, of characters that jsonb takes. */
function prune(value: unknown, depth: number, pruning: Pruning, isJson = false): unknown {
  if (typeof value === 'string') return storable(value)
  if (typeof value === 'bigint') return value.toString()
  if (typeof value !== 'object' || value === null)
    return typeof value === 'function' || typeof value === 'symbol' ? null : value
  const json = (value as { toJSON?: unknown }).toJSON
  // Asked once, like JSON.stringify does: some give themselves back.
  if (typeof json === 'function' && !isJson) return prune(json.call(value), depth, pruning, true)
  if (depth > MAX_DEPTH || --pruning.left < 0) {
    pruning.isCut = true
    return '…'
  }
  if (Array.isArray(value)) return value.map(item => prune(item, depth + 1, pruning))
  const entries = Object.entries(value).filter(([, item]) => item !== undefined)
  return Object.fromEntries(entries.map(([key, item]) => [storable(key), prune(item, depth + 1, pruning)]))
}

/** jsonb refuses U+0000 (SQLSTATE 22P05) and lone surrogates (22P02). */
// biome-ignore lint/suspicious/noControlCharactersInRegex: U+0000 is what it takes out
const storable = (text: string): string => text.toWellFormed().replace(/\u0000/g, '\ufffd')
