// What a reply's status means for the charge.

/** Whether a reply with this status is charged. The default: 2xx. */
export type ChargedStatus = (statusCode: number) => boolean

export const isSuccess: ChargedStatus = statusCode => statusCode >= 200 && statusCode < 300
