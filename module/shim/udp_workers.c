// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * UDP workers: threads bound to processors, each with a queue of bounded length. Which one gets a request is decided in
 * turn, or by the request's key, so that one key is always served in one place.
 */
#include <linux/jhash.h>
#include <linux/kthread.h>
#include <linux/netfilter.h>
#include <linux/slab.h>
#include <net/dst.h>
#include "shim.h"

/* Packets that wait for one worker. */
#define QUEUE_MAX 1024
/* Of a request, so many bytes are looked at for its key. */
#define LOOK_BYTES 320

struct worker {
	struct task_struct *task;
	struct sk_buff_head queue;
} ____cacheline_aligned_in_smp;

static struct worker *workers;
static unsigned int workers_count;
static bool route_by_key;
static atomic_t next_worker = ATOMIC_INIT(0);

/* The request's second word. */
static u32 key_hash(const u8 *payload, unsigned int len)
{
	unsigned int start = UNBUCKLE_FRAME_BYTES, end;

	len = min_t(unsigned int, len, LOOK_BYTES);
	while (start < len && payload[start] != ' ')
		start++;
	while (start < len && payload[start] == ' ')
		start++;
	for (end = start; end < len && payload[end] > ' '; end++)
		;
	return jhash(payload + min(start, len), end - min(start, end), 0);
}

/* Where a packet in a queue came in; the stack has no more use for this room. */
#define net_of(skb) (*(struct net **)(skb)->cb)

static void put(struct sk_buff *skb)
{
	struct net *net = net_of(skb);

	consume_skb(skb);
	put_net(net);
}

bool ub_udp_workers_queue(struct sk_buff *skb, const struct nf_hook_state *state, unsigned int payload)
{
	u32 pick = route_by_key ? key_hash(skb->data + payload, skb->len - payload) : atomic_inc_return(&next_worker);
	struct worker *worker = &workers[pick % workers_count];
	struct net *net;

	if (skb_queue_len(&worker->queue) >= QUEUE_MAX)
		return false;
	/* Whatever it refers to may be gone when its turn comes; its namespace is held. */
	net = maybe_get_net(state->net);
	if (!net)
		return false;
	net_of(skb) = net;
	skb_orphan(skb);
	skb_dst_drop(skb);
	nf_reset_ct(skb);
	skb->skb_iif = state->in ? state->in->ifindex : 0;
	skb->dev = NULL;
	skb_queue_tail(&worker->queue, skb);
	wake_up_process(worker->task);
	return true;
}

static int work(void *context)
{
	struct worker *worker = context;
	struct sk_buff *skb;

	while (!kthread_should_stop()) {
		set_current_state(TASK_INTERRUPTIBLE);
		if (skb_queue_empty_lockless(&worker->queue) && !kthread_should_stop())
			schedule();
		__set_current_state(TASK_RUNNING);
		while ((skb = skb_dequeue(&worker->queue))) {
			ub_udp_serve(net_of(skb), skb, skb->skb_iif);
			put(skb);
			cond_resched();
		}
	}
	return 0;
}

int ub_udp_workers_start(const struct ub_parameters *parameters)
{
	unsigned int number, cpu = -1;

	route_by_key = parameters->route_by_key;
	if (!parameters->udp_workers)
		return 0;
	workers = kvcalloc(parameters->udp_workers, sizeof(*workers), GFP_KERNEL);
	if (!workers) {
		pr_err("no memory for %u UDP workers\n", parameters->udp_workers);
		return -ENOMEM;
	}
	for (number = 0; number < parameters->udp_workers; number++) {
		struct worker *worker = &workers[number];

		skb_queue_head_init(&worker->queue);
		worker->task = kthread_create(work, worker, "unbuckle_udp/%u", number);
		if (IS_ERR(worker->task)) {
			int error = PTR_ERR(worker->task);

			pr_err("cannot start UDP worker %u: error %d\n", number, error);
			ub_udp_workers_stop();
			return error;
		}
		cpu = cpumask_next(cpu, cpu_online_mask);
		if (cpu >= nr_cpu_ids)
			cpu = cpumask_first(cpu_online_mask);
		kthread_bind(worker->task, cpu);
		workers_count = number + 1;
		wake_up_process(worker->task);
	}
	return 0;
}

void ub_udp_workers_stop(void)
{
	struct sk_buff *skb;
	unsigned int number;

	for (number = 0; number < workers_count; number++) {
		kthread_stop(workers[number].task);
		while ((skb = skb_dequeue(&workers[number].queue)))
			put(skb);
	}
	workers_count = 0;
	kvfree(workers);
	workers = NULL;
}
