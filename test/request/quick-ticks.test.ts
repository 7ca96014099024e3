import { createHook } from 'node:async_hooks'
import { setImmediate as turn } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { keepTicksQuick } from '../../src/request/quick-ticks.ts'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/** How many of the tick objects that Node makes for this work survive a full garbage collection. */
async function outliving(work: () => void): Promise<number> {
  const made: WeakRef<object>[] = []
  const hook = createHook({
    init: (_id, type, _trigger, resource) => {
      if (type === 'TickObject') made.push(new WeakRef(resource))
    }
  }).enable()
  work()
  hook.disable()
  // The target of a WeakRef stays alive until the end of the turn in which the WeakRef was made.
  await turn()
  collect()
  return made.filter(ref => ref.deref() !== undefined).length
}

t.test('keeps one tick object alive through a full garbage collection, and no second one', async t => {
  t.equal(await outliving(() => process.nextTick(() => {})), 0, 'none survives by itself')
  t.equal(await outliving(keepTicksQuick), 1)
  t.equal(await outliving(keepTicksQuick), 0)
})
