// The one direction of imports: index, cli, server → plugin → {request, meter, admin, upkeep, observe} → store → quota.
const rooms = 'request|meter|admin|upkeep|observe'

module.exports = {
  forbidden: [
    {
      name: 'quota-is-pure',
      severity: 'error',
      from: { path: '^src/quota/' },
      // `http` for the names of the status codes alone.
      to: { pathNot: '^src/quota/|^http$|node_modules/(@fastify/error|temporal-polyfill|temporal-spec)/' }
    },
    {
      name: 'store-knows-no-http',
      severity: 'error',
      from: { path: '^src/store/' },
      to: { path: '^src/|node_modules/(fastify|@fastify)/', pathNot: '^src/(store|quota)/' }
    },
    {
      name: 'only-store-speaks-sql',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/store/' },
      to: { path: 'node_modules/(drizzle-orm|postgres|@electric-sql)/' }
    },
    // Within the store: each floor stands on those that are named for it, and all on the files beside them.
    ...Object.entries({
      rollup: [],
      migration: [],
      connection: ['migration'],
      charge: ['rollup'],
      group: ['connection', 'charge', 'rollup'],
      catalogue: ['charge'],
      operator: ['charge', 'rollup'],
      upkeep: ['operator', 'charge', 'rollup']
    }).map(([floor, below]) => ({
      name: `store-${floor}-stands-on-${below.join('-and-') || 'nothing'}`,
      severity: 'error',
      from: { path: `^src/store/${floor}/` },
      to: { path: '^src/store/[^/]+/', pathNot: `^src/store/(${[floor, ...below].join('|')})/` }
    })),
    {
      name: 'only-connection-knows-drivers',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/store/connection/' },
      to: { path: 'node_modules/(postgres|@electric-sql|drizzle-orm/(postgres-js|pglite))/' }
    },
    {
      name: 'rooms-are-siblings',
      severity: 'error',
      from: { path: `^src/(${rooms})/` },
      to: { path: `^src/(${rooms}|server|cli)/`, pathNot: '^src/$1/' }
    },
    {
      name: 'plugin-is-the-root',
      severity: 'error',
      from: { path: `^src/(quota|store|${rooms})/` },
      to: { path: '^src/[^/]+\\.ts$' }
    },
    { name: 'no-circular', severity: 'error', from: {}, to: { circular: true } },
    {
      name: 'no-orphans',
      severity: 'error',
      from: { orphan: true, path: '^src/', pathNot: '^src/(index|cli/main|server/main)\\.ts$' },
      to: {}
    },
    {
      name: 'no-drawers',
      severity: 'error',
      from: {},
      to: { path: '/(utils?|helpers?|common|shared|misc|lib|tools|types)(/|[.]ts$)', pathNot: 'node_modules' }
    },
    {
      name: 'src-ships-without-tests',
      severity: 'error',
      from: { path: '^src/' },
      to: { path: '^(test|bench|examples)/' }
    }
  ],
  options: {
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    doNotFollow: { path: 'node_modules' },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'types', 'node', 'default'] }
  }
}
