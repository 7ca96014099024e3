// The routes that accept work and report on it: process, l3_detect, continue_after_l3, task_status, list_patients.
import type { FastifyInstance } from 'fastify'
import { problemAnswer } from '../quota/problem.ts'
import { meteredRefusals, PATH_REFUSALS, REFUSALS, refuse } from './answers.ts'
import { callerOf } from './caller.ts'
import type { Imaging, Task, TaskKind } from './imaging.ts'
import type { Settings } from './settings.ts'

const NAME = { type: 'string', minLength: 1, maxLength: 255 } as const

export const STUDY_PARAMS = {
  type: 'object',
  required: ['patient', 'date'],
  properties: {
    patient: { ...NAME, description: 'The patient, percent-encoded.', examples: ['demo'] },
    date: { ...NAME, description: 'The day of the study.', examples: ['2026-01-31'] }
  }
} as const

const TASK = {
  description: 'The task.',
  type: 'object',
  required: ['task_id', 'status', 'kind', 'progress', 'started_at', 'completed_at'],
  properties: {
    task_id: { type: 'string' },
    status: { type: 'string', enum: ['processing', 'completed'] },
    kind: { type: 'string', enum: ['full_process', 'l3_detect', 'continue_after_l3'] },
    progress: { type: 'integer', description: 'In percent.' },
    started_at: { type: 'string', format: 'date-time' },
    completed_at: { type: ['string', 'null'], format: 'date-time' }
  }
} as const

/** None of them reads a body, but Fastify does, where one is sent. */
const BODY_REFUSALS = {
  413: problemAnswer('The body is too large. None is needed.'),
  415: problemAnswer('The body is neither JSON nor text. None is needed.')
} as const

const taskDocument = ({ id, kind, startedAt, completedAt }: Task) => ({
  task_id: id,
  status: completedAt === undefined ? 'processing' : 'completed',
  kind,
  progress: completedAt === undefined ? 0 : 100,
  started_at: startedAt.toISOString(),
  completed_at: completedAt?.toISOString() ?? null
})

export function taskRoutes(
  api: FastifyInstance,
  imaging: Imaging,
  { isQuotaEnabled }: Pick<Settings, 'isQuotaEnabled'>
): void {
  const refusals = { ...meteredRefusals(isQuotaEnabled), ...PATH_REFUSALS, ...BODY_REFUSALS }
  const add = (url: string, kind: TaskKind, summary: string) =>
    api.route({
      method: 'POST',
      url,
      schema: { summary, tags: ['imaging'], params: STUDY_PARAMS, response: { 202: TASK, ...refusals } },
      handler: (request, reply) => reply.code(202).send(taskDocument(imaging.accept(callerOf(request), kind)))
    })
  add('/process/:patient/:date', 'full_process', 'Process a study from the scan to the result')
  add('/l3_detect/:patient/:date', 'l3_detect', 'Find the third lumbar vertebra')
  add('/continue_after_l3/:patient/:date', 'continue_after_l3', 'Continue from the L3 mask')
  taskStatusRoute(api, imaging)
  listPatientsRoute(api, imaging)
}

function taskStatusRoute(api: FastifyInstance, imaging: Imaging): void {
  api.route<{ Params: { id: string } }>({
    method: 'GET',
    url: '/task_status/:id',
    schema: {
      summary: 'The progress of one of your tasks',
      tags: ['imaging'],
      params: {
        type: 'object',
        required: ['id'],
        properties: { id: { type: 'string', examples: ['6f1c2b7e-0000-4000-8000-000000000000'] } }
      },
      response: { 200: TASK, ...REFUSALS, ...PATH_REFUSALS, 404: problemAnswer('This user has no such task.') }
    },
    handler: (request, reply) => {
      const task = imaging.task(callerOf(request), request.params.id)
      // Another user's task is not found either: that it exists is private.
      if (task === undefined) return refuse(reply, 404, 'FST_QUOTA_UNKNOWN_TASK', 'You have no such task.')
      return reply.send(taskDocument(task))
    }
  })
}

function listPatientsRoute(api: FastifyInstance, imaging: Imaging): void {
  api.route({
    method: 'GET',
    url: '/list_patients',
    schema: {
      summary: 'The studies you have uploaded',
      tags: ['imaging'],
      response: {
        200: {
          type: 'object',
          description: 'Your studies.',
          required: ['count', 'patients'],
          properties: {
            count: { type: 'integer' },
            patients: { type: 'array', items: { type: 'string', description: 'patient-date' } }
          }
        },
        ...REFUSALS
      }
    },
    handler: (request, reply) => {
      const patients = imaging.studies(callerOf(request))
      return reply.send({ count: patients.length, patients })
    }
  })
}
