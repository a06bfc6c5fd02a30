/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What tcp_listen.c and tcp_connection.c know of each other. */
#ifndef UNBUCKLE_TCP_H
#define UNBUCKLE_TCP_H

#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/net.h>
#include <linux/refcount.h>
#include <linux/workqueue.h>
#include "shim.h"

#define UB_INPUT_BYTES (UNBUCKLE_INPUT_BYTES_MIN + (64u << 10))
#define UB_OUTPUT_BYTES UNBUCKLE_OUTPUT_BYTES_MIN

/* One thread's worth of serving: its queue runs one connection at a time, so that they can share its buffers. */
struct ub_tcp_worker {
	struct workqueue_struct *queue;
	u8 *input, *output;
	u32 engine;
	atomic_t connections;
};

/* Bytes that wait for their turn. */
struct ub_parked {
	u8 *bytes;
	size_t start, end;
};

struct ub_tcp_connection {
	struct unbuckle_session session;
	struct socket *socket;
	/* Where it came in; there as long as it is open. */
	struct ub_tcp_listener *listener;
	struct ub_tcp_worker *worker;
	struct work_struct work;
	/* One for being open, one for each time that it waits in its worker's queue. */
	refcount_t references;
	/* In the list of all; under its lock. */
	struct list_head list;
	struct ub_parked input, output;
	/* When something last came from it or went to it. */
	u32 active_s;
	/* It has been told to go, by the timer or by unloading. */
	bool told_to_close;
	/* For its worker alone: it is no longer open; it has unserved input; it closes when its output is gone. */
	bool closed, midway, closing;
};

/* tcp_connection.c */
void ub_tcp_connections_start(const struct ub_parameters *parameters);
/* Gives a socket up that was accepted and is not wanted. */
void ub_tcp_refuse(struct socket *socket, const struct ub_tcp_listener *listener);
/* Takes the socket, even if it fails. */
int ub_tcp_connection_open(struct socket *socket, struct ub_tcp_worker *worker, struct ub_tcp_listener *listener);
/* Tells all that have been idle for so many seconds to close. */
void ub_tcp_connections_kick(u32 idle_s);
/* Closes all that came in there; nothing new may come. */
void ub_tcp_connections_close(struct ub_tcp_listeners *listeners);

#endif
