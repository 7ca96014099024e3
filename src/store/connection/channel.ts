// A client of postgres.js with one connection, which is not used again once it was lost.
import postgres from 'postgres'
import type { Values } from '../database.ts'
import { dial } from './dial.ts'

export type Settings = postgres.Options<Record<string, never>>

/** A statement of postgres.js; `state` is set once it was given to the connection. */
type Sent = postgres.PendingQuery<postgres.Row[]> & { state?: object | null; reject(error: Error): void }

/**
 * postgres.js (3.4.9) opens a lost connection again with what was left of it. A statement that it was given between the error of its socket and
 * the socket's end, as by those who are told of the error, is neither sent nor failed: once the new connection has answered one statement, it waits
 * for the answer of that one, forever. Or what was not written yet keeps back how the new one begins, until it has timed out several times.
 */
export class Channel {
  readonly client: postgres.Sql
  /** Of the server that it leads to (`hosts.ts`). */
  readonly generation: number
  /** How many statements were promised a place here. */
  taken = 0
  #isLost = false
  #isUp = false
  #heardAt = Number.NEGATIVE_INFINITY
  readonly #unanswered = new Set<Sent>()

  /** One that cannot be opened is tried again, a little later each time; `onLost` is called where it was open. */
  constructor(url: string, settings: Settings, generation: number, onLost?: (channel: Channel) => void) {
    const { socket = dial, onclose } = settings as { socket?: typeof dial; onclose?: (id: number) => void }
    const own = {
      max: 1,
      backoff,
      socket: (target: Parameters<typeof dial>[0]) => (this.#isLost ? refuse() : socket(target)),
      onclose: (id: number) => {
        onclose?.(id)
        if (this.#wasUp() && this.#lose()) onLost?.(this)
      }
    }
    this.client = postgres(url, { ...settings, ...own } as Settings)
    this.generation = generation
  }

  get isLost(): boolean {
    return this.#isLost
  }

  send(text: string, values: Values, prepare: boolean): Sent {
    const query = this.client.unsafe(text, [...values], { prepare }) as Sent
    this.#unanswered.add(query)
    const settle = () => {
      this.#unanswered.delete(query)
      if (query.state) this.#isUp = true
    }
    query.then(settle, settle)
    return query
  }

  hear(): void {
    this.#heardAt = performance.now()
  }

  /** It has answered nothing since then. One that is still being opened has its own time limit. */
  isSilentSince(sentAt: number, { state }: Sent): boolean {
    return Boolean(state) && this.#heardAt < sentAt
  }

  /** Lets what was sent be answered for some seconds. */
  retire(): void {
    if (!this.#isLost) void endClient(this.client, RETIRE_SECONDS)
  }

  #wasUp(): boolean {
    return this.#isUp || [...this.#unanswered].some(({ state }) => state)
  }

  /** What it was given is never answered, and what it was not is not sent. */
  #lose(): boolean {
    if (this.#isLost) return false
    this.#isLost = true
    for (const query of this.#unanswered) query.reject(query.state ? lost() : ended())
    void endClient(this.client, 0)
    return true
  }
}

/** How long one that was given up may take to finish what is answered after all. */
const RETIRE_SECONDS = 5
/** postgres.js waits forever to end a connection whose server crashed. */
export const CLOSE_SECONDS = 1

/** Of a statement that was not sent, and can be sent elsewhere. */
export const NOT_TAKEN = 'CONNECTION_ENDED'

const lost = () => Object.assign(new Error('the connection was lost'), { code: 'CONNECTION_CLOSED' })
const ended = () => Object.assign(new Error('the connection has ended'), { code: NOT_TAKEN })

function refuse(): never {
  throw ended()
}

/** Seconds until the next attempt to connect. Left to itself, postgres.js comes to wait 20 after an outage. */
const backoff = (retries: number): number => (0.5 + Math.random() / 2) * Math.min(2 ** retries / 50, 0.5)

/** Ends a client, or abandons it where it does not end. */
export async function endClient(client: postgres.Sql, seconds: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const patience = new Promise<void>(resolve => {
    timer = setTimeout(resolve, (seconds + 1) * 1000)
  })
  await Promise.race([client.end({ timeout: seconds }).catch(() => {}), patience])
  clearTimeout(timer)
}
