// What a statement says of all rows of many requests, by request.

export function byRequest<T>(all: readonly T[], counts: readonly number[]): T[][] {
  let from = 0
  return counts.map(count => {
    from += count
    return all.slice(from - count, from)
  })
}
