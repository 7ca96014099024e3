// Runs a user's work one at a time, first come, first served: else many requests of one user would queue for a connection ahead of everyone else's.
import { Group } from './group.ts'

interface Turn {
  userId: string
  work: () => Promise<unknown>
}

export class UserTurns {
  readonly #users = new Map<string, Group<Turn, unknown, unknown>>()

  /** Rejects with FST_QUOTA_STORE if its turn has not come, or its work has not ended, by `deadline`. */
  run<T>(userId: string, deadline: number, work: () => Promise<T>): Promise<T> {
    const turns =
      this.#users.get(userId) ??
      new Group<Turn, unknown, unknown>(([turn]) => Promise.all([(turn as Turn).work()]), {
        size: () => 1,
        answer: (_, given) => given,
        onIdle: () => this.#users.delete(userId)
      })
    this.#users.set(userId, turns)
    return turns.join({ userId, work }, deadline) as Promise<T>
  }
}
