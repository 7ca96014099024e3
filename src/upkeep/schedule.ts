// The timers that tidy up: nothing waits for them, and any number of processes may run them at once.
import { setTimeout as sleep } from 'node:timers/promises'

export interface Schedule {
  /** Stops, and waits for what is running. */
  stop(): Promise<void>
}

/** Runs `work` every `intervalMs`, first after `firstMs`, never twice at once; an error goes to `onError`, and the next turn comes all the same. */
export function every(
  intervalMs: number,
  work: (stopping: AbortSignal) => Promise<unknown>,
  onError: (error: unknown) => void,
  firstMs = intervalMs
): Schedule {
  const stopping = new AbortController()
  const { signal } = stopping
  const loop = async () => {
    for (let ms = firstMs; !signal.aborted; ms = intervalMs) {
      await sleep(ms, undefined, { signal, ref: false }).catch(() => {})
      if (!signal.aborted) await work(signal).catch(onError)
    }
  }
  const running = loop()
  return {
    async stop() {
      stopping.abort()
      await running
    }
  }
}
