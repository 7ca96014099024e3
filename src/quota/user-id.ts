// What a user id is: 1–255 characters, none of them a control character.

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for
const CONTROL = /[\u0000-\u001f\u007f-\u009f]/

export function isUserId(value: unknown): value is string {
  if (typeof value !== 'string' || value === '' || value.length > 510 || CONTROL.test(value)) return false
  // PostgreSQL counts code points, of which there are no more than UTF-16 units, and refuses a lone surrogate.
  return (value.length <= 255 || [...value].length <= 255) && value.isWellFormed()
}
