// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * TCP: listening, accepting, and the workers that connections are given to.
 *
 * The listener's callback only queues work. A connection that is not accepted yet has inherited that callback, and no
 * other trace of us: when the listener goes, the kernel drops its backlog, and a grace period later nobody is in here.
 */
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/slab.h>
#include <linux/tcp.h>
#include <linux/vmalloc.h>
#include <net/sock.h>
#include <net/tcp.h>
#include "tcp.h"

#define BACKLOG 1024
/* Connections that are accepted before others may run. */
#define ACCEPT_BUDGET 64

static struct ub_tcp_worker *workers;
static unsigned int workers_count;
static int connections_max;
static u32 idle_timeout_s;

static void sweep(struct work_struct *work)
{
	struct delayed_work *again = to_delayed_work(work);

	ub_tcp_connections_kick(idle_timeout_s);
	queue_delayed_work(system_unbound_wq, again, HZ);
}
static DECLARE_DELAYED_WORK(sweep_work, sweep);

static void ready(struct sock *sk)
{
	struct ub_tcp_listener *own;

	read_lock_bh(&sk->sk_callback_lock);
	own = sk->sk_user_data;
	/* A connection in the backlog has this callback, too. */
	if (own && sk->sk_state == TCP_LISTEN)
		queue_work(system_unbound_wq, &own->work);
	read_unlock_bh(&sk->sk_callback_lock);
}

/* The worker with the fewest connections. */
static struct ub_tcp_worker *freest_worker(void)
{
	struct ub_tcp_worker *best = &workers[0];
	unsigned int number;

	for (number = 1; number < workers_count; number++)
		if (atomic_read(&workers[number].connections) < atomic_read(&best->connections))
			best = &workers[number];
	return best;
}

static void accept(struct work_struct *work)
{
	struct ub_tcp_listener *own = container_of(work, struct ub_tcp_listener, work);
	struct socket *socket;
	int left;

	for (left = ACCEPT_BUDGET; left > 0; left--) {
		if (kernel_accept(own->socket, &socket, O_NONBLOCK))
			return;
		if (atomic_read(&ub_connections) >= connections_max) {
			static const char full[] = "ERROR Too many open connections\r\n";
			struct msghdr message = { .msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL };
			struct kvec vector = { (void *)full, sizeof(full) - 1 };

			kernel_sendmsg(socket, &message, &vector, 1, vector.iov_len);
			ub_tcp_refuse(socket, own);
			ub_count(connections_rejected);
			continue;
		}
		if (!ub_tcp_connection_open(socket, freest_worker(), own))
			ub_count(connections_total);
	}
	queue_work(system_unbound_wq, &own->work);
}

static int listen(struct ub_tcp_listener *own, struct net *net, int family, const struct ub_parameters *parameters)
{
	unsigned int port = parameters->port;
	struct sock *sk;
	int error;

	if (!ub_address_has(&parameters->address, family))
		return 0;
	error = sock_create_kern(net, family, SOCK_STREAM, IPPROTO_TCP, &own->socket);
	if (error == -EAFNOSUPPORT && family == AF_INET6)
		return 0;
	if (error) {
		pr_err("cannot make a TCP socket: error %d\n", error);
		return error;
	}
	INIT_WORK(&own->work, accept);
	sock_set_reuseaddr(own->socket->sk);
	error = ub_address_bind(own->socket, &parameters->address, family, port);
	if (error)
		goto failed;
	sk = own->socket->sk;
	write_lock_bh(&sk->sk_callback_lock);
	own->before = (struct ub_tcp_callbacks){
		.data_ready = sk->sk_data_ready,
		.state_change = sk->sk_state_change,
		.write_space = sk->sk_write_space,
	};
	sk->sk_user_data = own;
	sk->sk_data_ready = ready;
	write_unlock_bh(&sk->sk_callback_lock);
	error = kernel_listen(own->socket, BACKLOG);
	if (!error)
		return 0;
failed:
	pr_err("cannot listen on TCP port %u (IPv%d): %s\n", port, family == AF_INET ? 4 : 6,
	       ub_address_error(error));
	sock_release(own->socket);
	own->socket = NULL;
	return error;
}

static void unlisten(struct ub_tcp_listener *own)
{
	struct sock *sk;

	if (!own->socket)
		return;
	sk = own->socket->sk;
	write_lock_bh(&sk->sk_callback_lock);
	sk->sk_data_ready = own->before.data_ready;
	sk->sk_user_data = NULL;
	write_unlock_bh(&sk->sk_callback_lock);
	cancel_work_sync(&own->work);
	sock_release(own->socket);
	own->socket = NULL;
}

static void workers_stop(void)
{
	unsigned int number;

	for (number = 0; workers && number < workers_count; number++) {
		if (workers[number].queue)
			destroy_workqueue(workers[number].queue);
		vfree(workers[number].input);
		vfree(workers[number].output);
	}
	kvfree(workers);
	workers = NULL;
}

static int workers_start(const struct ub_parameters *parameters)
{
	unsigned int number;

	workers_count = parameters->workers;
	workers = kvcalloc(workers_count, sizeof(*workers), GFP_KERNEL);
	if (!workers)
		goto failed;
	for (number = 0; number < workers_count; number++) {
		struct ub_tcp_worker *worker = &workers[number];

		worker->engine = nr_cpu_ids + number;
		worker->input = __vmalloc(UB_INPUT_BYTES, UB_GFP_AT_LOAD);
		worker->output = __vmalloc(UB_OUTPUT_BYTES, UB_GFP_AT_LOAD);
		worker->queue = alloc_ordered_workqueue("unbuckle_tcp/%u", 0, number);
		if (!worker->input || !worker->output || !worker->queue)
			goto failed;
	}
	return 0;
failed:
	workers_stop();
	pr_err("no memory for %u workers\n", workers_count);
	return -ENOMEM;
}

int ub_tcp_start(const struct ub_parameters *parameters)
{
	int error = workers_start(parameters);

	if (error)
		return error;
	connections_max = parameters->core.connections_max;
	idle_timeout_s = parameters->core.idle_timeout_s;
	ub_tcp_connections_start(parameters);
	if (idle_timeout_s)
		queue_delayed_work(system_unbound_wq, &sweep_work, HZ);
	return 0;
}

void ub_tcp_stop(void)
{
	cancel_delayed_work_sync(&sweep_work);
	/* Drains what is left of the last connections' work. */
	workers_stop();
}

int ub_tcp_listen(struct ub_tcp_listeners *listeners, struct net *net, const struct ub_parameters *parameters)
{
	int error;

	listeners->of_family[0].all = listeners;
	listeners->of_family[1].all = listeners;
	error = listen(&listeners->of_family[0], net, AF_INET, parameters);
	if (!error)
		error = listen(&listeners->of_family[1], net, AF_INET6, parameters);
	if (error)
		ub_tcp_unlisten(listeners);
	return error;
}

void ub_tcp_unlisten(struct ub_tcp_listeners *listeners)
{
	unlisten(&listeners->of_family[0]);
	unlisten(&listeners->of_family[1]);
	ub_tcp_connections_close(listeners);
	/* A callback that has found nobody may still be on its way out of this file. */
	synchronize_net();
}
