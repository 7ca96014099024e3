// Splits a list by user, for a database that is distributed by user.
export function byUser<Of extends { userId: string }>(all: readonly Of[]): Of[][] {
  const users = new Map<string, Of[]>()
  for (const one of all) {
    const own = users.get(one.userId)
    if (own === undefined) users.set(one.userId, [one])
    else own.push(one)
  }
  return [...users.values()]
}
