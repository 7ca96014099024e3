// What the replaced system sold: its quota types, and what each of its routes costs.
import type { FastifyRequest } from 'fastify'
import { MAX_AMOUNT } from '../quota/amount.ts'
import type { QuotaDeclaration } from '../quota/quota-type.ts'
import type { Rule } from '../quota/rule.ts'

const GIB = 2 ** 30

export const QUOTAS = {
  api_calls_full_process: {
    name: 'Full processing',
    description: 'Studies processed from the scan to the result, a month.',
    unit: 'call',
    limit: 100,
    period: 'month'
  },
  api_calls_l3_detect: {
    name: 'L3 detection',
    description: 'Detections of the third lumbar vertebra, a month.',
    unit: 'call',
    limit: 200,
    period: 'month'
  },
  api_calls_continue: {
    name: 'Continuation after L3',
    description: 'Processings continued from a detected or uploaded L3 mask, a month.',
    unit: 'call',
    limit: 200,
    period: 'month'
  },
  storage_dicom: {
    name: 'DICOM storage',
    description: 'Bytes of uploaded scans.',
    unit: 'byte',
    limit: 10 * GIB,
    kind: 'level'
  },
  storage_results: {
    name: 'Result storage',
    description: 'Bytes of uploaded masks and of results.',
    unit: 'byte',
    limit: 5 * GIB,
    kind: 'level'
  }
} satisfies Record<string, QuotaDeclaration>

export const RULES: readonly Rule<FastifyRequest>[] = [
  { method: 'POST', url: '/process/:patient/:date', quota: 'api_calls_full_process' },
  { method: 'POST', url: '/l3_detect/:patient/:date', quota: 'api_calls_l3_detect' },
  { method: 'POST', url: '/continue_after_l3/:patient/:date', quota: 'api_calls_continue' },
  { method: 'POST', url: '/upload_dicom_zip', quota: { type: 'storage_dicom', amount: announcedBytes } },
  { method: 'POST', url: '/upload_l3_mask/:patient/:date', quota: { type: 'storage_results', amount: announcedBytes } }
]

/** What is held while an upload runs. The handler charges what came; a request that announces nothing is refused with 411. */
function announcedBytes(request: FastifyRequest): number {
  return Math.min(Number(request.headers['content-length'] ?? 0), MAX_AMOUNT)
}
