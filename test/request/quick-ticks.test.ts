import { createHook } from 'node:async_hooks'
import { setImmediate as turn } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { keepTicksQuick } from '../../src/request/quick-ticks.ts'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/** How many of the objects that Node made for the ticks of this work outlive a full collection. */
async function outliving(work: () => void): Promise<number> {
  const made: WeakRef<object>[] = []
  const hook = createHook({
    init: (_id, type, _trigger, resource) => {
      if (type === 'TickObject') made.push(new WeakRef(resource))
    }
  }).enable()
  work()
  hook.disable()
  // What a WeakRef was made for in this turn stays until the next.
  await turn()
  collect()
  return made.filter(ref => ref.deref() !== undefined).length
}

t.test('one object of a tick outlives a full collection, and no second one', async t => {
  t.equal(await outliving(() => process.nextTick(() => {})), 0, 'none does by itself')
  t.equal(await outliving(keepTicksQuick), 1)
  t.equal(await outliving(keepTicksQuick), 0)
})
