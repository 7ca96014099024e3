// There is no imaging here: a stand-in, in memory and separate for each user, that accepts tasks and notes what was uploaded.
import { randomUUID } from 'node:crypto'

/** How long a task pretends to work. */
const WORK_MS = 1_000
/** How much is remembered of a user, the newest: the stand-in must not grow without end. */
const KEPT_PER_USER = 1_000
const KEPT_USERS = 10_000

export type TaskKind = 'full_process' | 'l3_detect' | 'continue_after_l3'

export interface Task {
  id: string
  kind: TaskKind
  startedAt: Date
  /** Undefined while it runs. */
  completedAt: Date | undefined
}

interface Workplace {
  tasks: Map<string, { kind: TaskKind; startedAt: number }>
  /** `patient-date`, as the replaced system listed them. */
  studies: Map<string, true>
}

export class Imaging {
  readonly #workplaces = new Map<string, Workplace>()

  accept(userId: string, kind: TaskKind): Task {
    const id = randomUUID()
    keep(this.#of(userId).tasks, id, { kind, startedAt: Date.now() }, KEPT_PER_USER)
    return this.task(userId, id) as Task
  }

  /** Undefined for a task that is another user's, or nobody's. */
  task(userId: string, id: string): Task | undefined {
    const task = this.#workplaces.get(userId)?.tasks.get(id)
    if (task === undefined) return undefined
    const endsAt = task.startedAt + WORK_MS
    return {
      id,
      kind: task.kind,
      startedAt: new Date(task.startedAt),
      completedAt: Date.now() >= endsAt ? new Date(endsAt) : undefined
    }
  }

  noteUpload(userId: string, patient: string, date: string): void {
    keep(this.#of(userId).studies, `${patient}-${date}`, true, KEPT_PER_USER)
  }

  studies(userId: string): string[] {
    return [...(this.#workplaces.get(userId)?.studies.keys() ?? [])]
  }

  #of(userId: string): Workplace {
    const workplace = this.#workplaces.get(userId) ?? { tasks: new Map(), studies: new Map() }
    keep(this.#workplaces, userId, workplace, KEPT_USERS)
    return workplace
  }
}

/** Sets it as the newest, and forgets the oldest beyond `limit`. */
function keep<Value>(map: Map<string, Value>, key: string, value: Value, limit: number): void {
  map.delete(key)
  map.set(key, value)
  if (map.size > limit) map.delete(map.keys().next().value as string)
}
