// Where the embedded database is kept by default.

export const DEFAULT_DIRECTORY = './.fastify-quota'
