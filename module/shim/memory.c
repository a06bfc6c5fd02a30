// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Memory: one piece for the store, one for the tables beside it; both are taken when the module is loaded, and nothing
 * of either is ever taken later. A machine that has not that much to give, and what workers take then, refuses, without
 * killing anybody for it.
 */
#include <linux/mm.h>
#include <linux/vmalloc.h>
#include "tcp.h"

/* Left to everybody else: a sixteenth of the machine. */
#define SPARE_SHARE 16

static bool there_is(u64 bytes)
{
	u64 available = (u64)max(si_mem_available(), 0l) << PAGE_SHIFT;
	u64 spare = ((u64)totalram_pages() << PAGE_SHIFT) / SPARE_SHARE;

	if (available >= spare && available - spare >= bytes)
		return true;
	pr_err("memory_mb needs %llu MiB, of which this machine has %llu to give\n", bytes >> 20,
	       available > spare ? (available - spare) >> 20 : 0);
	return false;
}

static void *take(size_t bytes)
{
	/* Lookups jump about in this: large pages, if there are. */
	return vmalloc_huge(bytes, UB_GFP_AT_LOAD | __GFP_ZERO);
}

int ub_memory_take(struct ub_memory *memory, const struct unbuckle_settings *settings)
{
	memory->block_bytes = unbuckle_core_bytes(settings);
	if (!there_is(settings->memory_bytes + memory->block_bytes +
		      (u64)settings->tcp_workers * (UB_INPUT_BYTES + UB_OUTPUT_BYTES)))
		return -ENOMEM;
	memory->region = take(settings->memory_bytes);
	memory->block = take(memory->block_bytes);
	if (memory->region && memory->block)
		return 0;
	ub_memory_give(memory);
	pr_err("no %llu MiB for memory_mb\n", settings->memory_bytes >> 20);
	return -ENOMEM;
}

void ub_memory_give(struct ub_memory *memory)
{
	vfree(memory->region);
	vfree(memory->block);
	*memory = (struct ub_memory){};
}
