// How often each event happened since this process started.
import type { EventCounts, QuotaEvent } from '../quota/events.ts'

export class EventCounter {
  readonly #counts: EventCounts = {
    charged: 0,
    amended: 0,
    released: 0,
    denied: 0,
    unenforced: 0,
    'store-failed': 0,
    owed: 0,
    dropped: 0
  }

  count({ name }: QuotaEvent): void {
    this.#counts[name] += 1
  }

  read(): EventCounts {
    return { ...this.#counts }
  }
}
