// Runs a user's work one at a time, first come, first served: else many requests of one user would queue for a connection ahead of everyone else's.
import { setImmediate as nextTurn } from 'node:timers/promises'
import { Group } from './group.ts'

interface Turn {
  userId: string
  work: () => Promise<unknown>
}

interface Turns {
  group: Group<Turn, unknown, unknown>
  /** Called when all have had their turn. */
  whenOver: (() => void)[]
}

export class UserTurns {
  readonly #users = new Map<string, Turns>()

  /** Whether somebody waits for a turn, or has it. */
  has(userId: string): boolean {
    return this.#users.has(userId)
  }

  /** Resolves once nobody waits for a turn, or has it; those who ask for one in this turn of the event loop are counted. */
  async over(userId: string): Promise<void> {
    await nextTurn()
    const turns = this.#users.get(userId)
    if (turns !== undefined) await new Promise<void>(resolve => turns.whenOver.push(resolve))
  }

  /** Rejects with FST_QUOTA_STORE if its turn has not come, or its work has not ended, by `deadline`. */
  run<T>(userId: string, deadline: number, work: () => Promise<T>): Promise<T> {
    const turns = this.#users.get(userId) ?? this.#begin(userId)
    return turns.group.join({ userId, work }, deadline) as Promise<T>
  }

  #begin(userId: string): Turns {
    const whenOver: Turns['whenOver'] = []
    const group = new Group<Turn, unknown, unknown>(([turn]) => Promise.all([(turn as Turn).work()]), {
      size: 1,
      answer: (_, given) => given,
      onIdle: () => {
        this.#users.delete(userId)
        for (const tell of whenOver) tell()
      }
    })
    const turns = { group, whenOver }
    this.#users.set(userId, turns)
    return turns
  }
}
