// One user's work at a time, the first come first: many requests of one user would else stand before those of all others in the queue for a connection.
import { Group } from './group.ts'

interface Turn {
  userId: string
  work: () => Promise<unknown>
}

export class UserTurns {
  readonly #users = new Map<string, Group<Turn, unknown, unknown>>()

  /** Rejects with FST_QUOTA_STORE where its turn has not come by then, or its work has not ended. */
  run<T>(userId: string, deadline: number, work: () => Promise<T>): Promise<T> {
    const turns =
      this.#users.get(userId) ??
      new Group<Turn, unknown, unknown>(([turn]) => Promise.all([(turn as Turn).work()]), {
        size: 1,
        answer: (_, given) => given,
        onIdle: () => this.#users.delete(userId)
      })
    this.#users.set(userId, turns)
    return turns.join({ userId, work }, deadline) as Promise<T>
  }
}
