// Where the embedded database is kept unless somebody says otherwise.

export const DEFAULT_DIRECTORY = './.fastify-quota'
