// SPDX-License-Identifier: MIT OR GPL-2.0
/* Counters: one set for each processor, summed when somebody asks; and /proc/unbuckle, which says all there is to say. */
#include <linux/mm.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include "shim.h"

#define REPORT_BYTES (16u << 10)

DEFINE_PER_CPU(struct unbuckle_door_counts, ub_counts);
atomic_t ub_connections = ATOMIC_INIT(0);

void unbuckle_shim_counts(struct unbuckle_door_counts *counts)
{
	u64 *sums = (u64 *)counts;
	size_t index, words = sizeof(*counts) / sizeof(u64);
	int cpu;

	for_each_possible_cpu(cpu) {
		const u64 *own = (const u64 *)per_cpu_ptr(&ub_counts, cpu);

		for (index = 0; index < words; index++)
			sums[index] += READ_ONCE(own[index]);
	}
	counts->connections = atomic_read(&ub_connections);
}

static int show(struct seq_file *file, void *unused)
{
	u8 *text = kvmalloc(REPORT_BYTES, GFP_KERNEL);

	if (!text)
		return -ENOMEM;
	seq_write(file, text, unbuckle_report(ub_core, ub_now_s(), text, REPORT_BYTES));
	kvfree(text);
	return 0;
}

int ub_report_start(void)
{
	if (proc_create_single("unbuckle", 0444, NULL, show))
		return 0;
	pr_err("cannot make /proc/unbuckle\n");
	return -ENOMEM;
}

void ub_report_stop(void)
{
	remove_proc_entry("unbuckle", NULL);
}
