// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Engines: one for each processor, for what runs there with softirqs off, and one for each TCP worker. Once a second
 * each gets some steps of background work: expiry, closing of half-filled spans, shrinking.
 */
#include <linux/slab.h>
#include <linux/workqueue.h>
#include "shim.h"

/* Steps for one engine in one second, and before others may run. */
#define STEPS_MAX 64

struct unbuckle_core *ub_core;
static struct ub_engine *engines;
static u32 engines_count;

static void upkeep(struct work_struct *work);
static DECLARE_DELAYED_WORK(upkeep_work, upkeep);

struct ub_engine *ub_engine_take(u32 number)
{
	spin_lock_bh(&engines[number].lock);
	return &engines[number];
}

struct ub_engine *ub_engine_take_local(void)
{
	u32 number;

	local_bh_disable();
	number = smp_processor_id();
	spin_lock(&engines[number].lock);
	return &engines[number];
}

void ub_engine_give(struct ub_engine *engine)
{
	spin_unlock_bh(&engine->lock);
}

static void upkeep(struct work_struct *work)
{
	u32 number;
	int step;
	bool more;

	for (number = 0; number < engines_count; number++) {
		for (step = 0, more = true; more && step < STEPS_MAX; step++) {
			struct ub_engine *engine = ub_engine_take(number);

			more = unbuckle_maintain(ub_core, number, ub_now_s());
			ub_engine_give(engine);
			cond_resched();
		}
	}
	queue_delayed_work(system_unbound_wq, &upkeep_work, HZ);
}

int ub_engines_start(const struct ub_parameters *parameters, const struct ub_memory *memory)
{
	u32 number;

	engines_count = parameters->core.engines;
	engines = kvcalloc(engines_count, sizeof(*engines), GFP_KERNEL);
	if (!engines) {
		pr_err("no memory for %u engines\n", engines_count);
		return -ENOMEM;
	}
	for (number = 0; number < engines_count; number++) {
		spin_lock_init(&engines[number].lock);
		engines[number].number = number;
	}
	ub_core = unbuckle_core_make(&parameters->core, memory->region, memory->block, memory->block_bytes);
	if (!ub_core) {
		pr_err("the store can't be made with these parameters\n");
		kvfree(engines);
		return -EINVAL;
	}
	queue_delayed_work(system_unbound_wq, &upkeep_work, HZ);
	return 0;
}

void ub_engines_stop(void)
{
	cancel_delayed_work_sync(&upkeep_work);
	kvfree(engines);
	ub_core = NULL;
}
