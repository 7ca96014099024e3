// What doctor found: that something is right, that something is worth knowing, or that it is wrong and what to do.

export interface Finding {
  state: 'ok' | 'hint' | 'wrong'
  about: string
  text: string
  /** What to do about it; always with `wrong`. */
  remedy?: string
}

export const ok = (about: string, text: string): Finding => ({ state: 'ok', about, text })
export const hint = (about: string, text: string, remedy: string): Finding => ({ state: 'hint', about, text, remedy })
export const wrong = (about: string, text: string, remedy: string): Finding => ({ state: 'wrong', about, text, remedy })

export function describeFinding({ state, about, text, remedy }: Finding): string {
  const line = `${state.padEnd(6)}${about.padEnd(14)}${text}`
  return remedy === undefined ? line : `${line}\n${' '.repeat(20)}→ ${remedy}`
}
