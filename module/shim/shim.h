/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * What the shim's files know of each other. Each has one kernel facility; main.c puts them together.
 */
#ifndef UNBUCKLE_SHIM_H
#define UNBUCKLE_SHIM_H

#undef pr_fmt
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/cache.h>
#include <linux/in6.h>
#include <linux/kernel.h>
#include <linux/percpu.h>
#include <linux/skbuff.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include <net/net_namespace.h>
#include "core.h"

#ifdef CONFIG_PREEMPT_RT
#error "Unbuckle needs softirqs that are not preempted: PREEMPT_RT is not supported"
#endif

struct nf_hook_state;

/* address.c: where to listen. Family 0: on all addresses; an IPv4 address is kept in its mapped form. */
struct ub_address {
	int family;
	struct in6_addr address;
};
int ub_address_read(const char *text, struct ub_address *to);
/* Whether there is anything to listen on in this family. */
bool ub_address_has(const struct ub_address *own, int family);
int ub_address_bind(struct socket *socket, const struct ub_address *own, int family, unsigned int port);
/* Why it could not be bound, for a message. */
const char *ub_address_error(int error);

/* What the module was loaded with: parameters.c. */
struct ub_parameters {
	unsigned int port;
	struct ub_address address;
	bool udp, tcp;
	unsigned int workers;
	unsigned int udp_workers;
	bool route_by_key;
	struct unbuckle_settings core;
};
int ub_parameters_read(struct ub_parameters *to);

/* What is large and taken at load: RETRY_MAYFAIL fails where the OOM killer would start. */
#define UB_GFP_AT_LOAD (GFP_KERNEL | __GFP_RETRY_MAYFAIL | __GFP_NOWARN)

/* memory.c: the region and the tables. */
struct ub_memory {
	void *region, *block;
	size_t block_bytes;
};
int ub_memory_take(struct ub_memory *memory, const struct unbuckle_settings *settings);
void ub_memory_give(struct ub_memory *memory);

/* time.c: seconds since the region was made. */
void ub_time_begin(struct unbuckle_settings *settings);
u32 ub_now_s(void);

/*
 * engines.c: engines, each with its lock. The first ones belong to processors, the others to TCP workers; the lock is
 * there for the second's upkeep, and for the rare case that somebody works for a processor that is gone.
 */
struct ub_engine {
	spinlock_t lock;
	u32 number;
} ____cacheline_aligned_in_smp;
int ub_engines_start(const struct ub_parameters *parameters, const struct ub_memory *memory);
void ub_engines_stop(void);
extern struct unbuckle_core *ub_core;
/* Takes the engine and turns softirqs off. */
struct ub_engine *ub_engine_take(u32 number);
struct ub_engine *ub_engine_take_local(void);
void ub_engine_give(struct ub_engine *engine);

/* counters.c: what the shim counts, and /proc/unbuckle. */
DECLARE_PER_CPU(struct unbuckle_door_counts, ub_counts);
extern atomic_t ub_connections;
#define ub_count(name) this_cpu_inc(ub_counts.name)
#define ub_count_add(name, by) this_cpu_add(ub_counts.name, by)
int ub_report_start(void);
void ub_report_stop(void);

/*
 * udp.c: serves a request in `skb`, whose payload is linear, and sends the replies. Frees nothing. Softirqs may be on or
 * off. `interface` is where the request came in.
 */
bool ub_udp_serve(struct net *net, struct sk_buff *skb, int interface);

/* udp_hook.c: requests on their way up, before a socket is looked for. */
void ub_hook_prepare(const struct ub_parameters *parameters);
int ub_hook_start(struct net *net);
void ub_hook_stop(struct net *net);

/* udp_workers.c: threads that serve what the hook takes. */
int ub_udp_workers_start(const struct ub_parameters *parameters);
void ub_udp_workers_stop(void);
/* Gives the request to a worker; false if its queue is full. Takes the packet if true. */
bool ub_udp_workers_queue(struct sk_buff *skb, const struct nf_hook_state *state, unsigned int payload);

/* udp_socket.c: owns the port in a namespace, and answers what the hook leaves. One for each address family. */
struct ub_udp_sockets {
	struct ub_udp_socket {
		struct socket *socket;
		struct work_struct work;
		void (*ready_before)(struct sock *sk);
	} of_family[2];
};
int ub_udp_sockets_start(struct ub_udp_sockets *sockets, struct net *net, const struct ub_parameters *parameters);
void ub_udp_sockets_stop(struct ub_udp_sockets *sockets);

/* tcp_listen.c and tcp_connection.c: connections, served by workers. */
int ub_tcp_start(const struct ub_parameters *parameters);
void ub_tcp_stop(void);
/* Whoever listens in a namespace: one for each address family. */
struct ub_tcp_listeners {
	struct ub_tcp_listener {
		struct ub_tcp_listeners *all;
		struct socket *socket;
		struct work_struct work;
		struct ub_tcp_callbacks {
			void (*data_ready)(struct sock *sk);
			void (*state_change)(struct sock *sk);
			void (*write_space)(struct sock *sk);
		} before;
	} of_family[2];
	/* Connections that came in here and are open. */
	atomic_t connections;
};
int ub_tcp_listen(struct ub_tcp_listeners *listeners, struct net *net, const struct ub_parameters *parameters);
/* No connection of theirs is left when this returns. */
void ub_tcp_unlisten(struct ub_tcp_listeners *listeners);

/* namespaces.c: where it is served: in `home`, and wherever else it was added. */
int ub_namespaces_start(struct net *home, const struct ub_parameters *parameters);
void ub_namespaces_stop(void);

#endif
