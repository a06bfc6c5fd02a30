// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * A TCP connection: served in its worker's queue, whenever its socket has something to read or room to write.
 *
 * It never blocks. What a client has sent of a request, or has not taken of a reply, is parked with the connection
 * between turns, within a bound for all of them together; a large value is not copied for that, the core keeps it
 * pinned and makes its bytes again.
 */
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/tcp.h>
#include <linux/version.h>
#include <linux/wait.h>
#include <net/sock.h>
#include <net/tcp.h>
#include "tcp.h"

/* Bytes received and sent in one turn, before other connections have theirs. */
#define TURN_BYTES (256u << 10)
/* What a client that does not read may send ahead. */
#define AHEAD_BYTES (64u << 10)
/* All that is parked: so much, and a share of the memory for items. */
#define PARKED_BYTES_BASE (12u << 20)
#define PARKED_SHARE 64

static LIST_HEAD(all);
static DEFINE_SPINLOCK(all_lock);
static DECLARE_WAIT_QUEUE_HEAD(none_left);
static atomic64_t parked_bytes = ATOMIC64_INIT(0);
static u64 parked_bytes_max;

static void work(struct work_struct *item);

static void put(struct ub_tcp_connection *own)
{
	if (refcount_dec_and_test(&own->references))
		kfree(own);
}

/* Has the connection served soon. Whoever calls knows that it is open. */
static void enqueue(struct ub_tcp_connection *own)
{
	refcount_inc(&own->references);
	if (!queue_work(own->worker->queue, &own->work))
		refcount_dec(&own->references);
}

/* ---- what is parked ---- */

static size_t parked_len(const struct ub_parked *parked)
{
	return parked->end - parked->start;
}

static void park_nothing(struct ub_parked *parked)
{
	atomic64_sub(parked->end, &parked_bytes);
	kvfree(parked->bytes);
	*parked = (struct ub_parked){};
}

/* Adds bytes behind those that are there. */
static bool park(struct ub_parked *parked, const u8 *bytes, size_t len)
{
	size_t before = parked_len(parked), whole = before + len;
	u8 *room;

	if (!len)
		return true;
	if (atomic64_add_return(whole, &parked_bytes) > parked_bytes_max)
		goto refused;
	room = kvmalloc(whole, GFP_KERNEL | __GFP_NOWARN | __GFP_RETRY_MAYFAIL);
	if (!room)
		goto refused;
	if (before)
		memcpy(room, parked->bytes + parked->start, before);
	memcpy(room + before, bytes, len);
	park_nothing(parked);
	*parked = (struct ub_parked){ .bytes = room, .end = whole };
	return true;
refused:
	atomic64_sub(whole, &parked_bytes);
	ub_count(out_of_memory);
	return false;
}

/* ---- callbacks: with softirqs off, sometimes under the socket's lock ---- */

static void wake(struct sock *sk)
{
	struct ub_tcp_connection *own;

	read_lock_bh(&sk->sk_callback_lock);
	own = sk->sk_user_data;
	if (own)
		enqueue(own);
	read_unlock_bh(&sk->sk_callback_lock);
}

static void wake_writer(struct sock *sk)
{
	if (!sk_stream_is_writeable(sk))
		return;
	if (sk->sk_socket)
		clear_bit(SOCK_NOSPACE, &sk->sk_socket->flags);
	wake(sk);
}

static void callbacks_take(struct ub_tcp_connection *own)
{
	struct sock *sk = own->socket->sk;

	write_lock_bh(&sk->sk_callback_lock);
	sk->sk_user_data = own;
	sk->sk_data_ready = wake;
	sk->sk_state_change = wake;
	sk->sk_write_space = wake_writer;
	write_unlock_bh(&sk->sk_callback_lock);
}

/* A socket gets those back that the listener had before they were ours: from the listener it has inherited ours. */
static void callbacks_give(struct socket *socket, const struct ub_tcp_listener *listener)
{
	struct sock *sk = socket->sk;

	write_lock_bh(&sk->sk_callback_lock);
	sk->sk_user_data = NULL;
	sk->sk_data_ready = listener->before.data_ready;
	sk->sk_state_change = listener->before.state_change;
	sk->sk_write_space = listener->before.write_space;
	write_unlock_bh(&sk->sk_callback_lock);
}

/* ---- opening and closing ---- */

static void hold_namespace(struct sock *sk)
{
#ifdef UNBUCKLE_HAS_SK_NET_REFCNT_UPGRADE
	sk_net_refcnt_upgrade(sk);
#else
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	__netns_tracker_free(sock_net(sk), &sk->ns_tracker, false);
#endif
	sk->sk_net_refcnt = 1;
	get_net_track(sock_net(sk), &sk->ns_tracker, GFP_KERNEL);
	sock_inuse_add(sock_net(sk), 1);
#endif
}

/*
 * Leaves a socket to the stack, which has to send again what gets lost of the last words. For that it needs timers, and
 * lets only those sockets have some that hold their namespace, as the kernel's own do not. Where the namespace is about
 * to die, there is no time for last words.
 */
static void release(struct socket *socket)
{
	struct sock *sk = socket->sk;
	struct net *net = maybe_get_net(sock_net(sk));

	if (net) {
		hold_namespace(sk);
		put_net(net);
	} else {
		sock_no_linger(sk);
	}
	sock_release(socket);
}

void ub_tcp_refuse(struct socket *socket, const struct ub_tcp_listener *listener)
{
	callbacks_give(socket, listener);
	release(socket);
}

int ub_tcp_connection_open(struct socket *socket, struct ub_tcp_worker *worker, struct ub_tcp_listener *listener)
{
	struct ub_tcp_connection *own = kzalloc(sizeof(*own), GFP_KERNEL);

	if (!own) {
		ub_tcp_refuse(socket, listener);
		ub_count(out_of_memory);
		return -ENOMEM;
	}
	unbuckle_session_begin(&own->session);
	own->socket = socket;
	own->listener = listener;
	own->worker = worker;
	own->active_s = ub_now_s();
	INIT_WORK(&own->work, work);
	refcount_set(&own->references, 2);
	tcp_sock_set_nodelay(socket->sk);
	atomic_inc(&ub_connections);
	atomic_inc(&listener->all->connections);
	atomic_inc(&worker->connections);
	spin_lock(&all_lock);
	list_add_tail(&own->list, &all);
	spin_unlock(&all_lock);
	callbacks_take(own);
	/* What came before the callbacks were there. */
	enqueue(own);
	put(own);
	return 0;
}

static void close(struct ub_tcp_connection *own)
{
	struct ub_engine *engine;

	if (own->closed)
		return;
	own->closed = true;
	callbacks_give(own->socket, own->listener);
	spin_lock(&all_lock);
	list_del(&own->list);
	spin_unlock(&all_lock);
	engine = ub_engine_take(own->worker->engine);
	unbuckle_session_end(ub_core, engine->number, &own->session);
	ub_engine_give(engine);
	release(own->socket);
	park_nothing(&own->input);
	park_nothing(&own->output);
	atomic_dec(&own->worker->connections);
	atomic_dec(&ub_connections);
	if (atomic_dec_and_test(&own->listener->all->connections))
		wake_up(&none_left);
	put(own);
}

/* ---- a turn ---- */

enum outcome {
	WAIT,		/* for the socket */
	AGAIN,		/* after the others */
	CLOSE,
};

struct turn {
	struct ub_tcp_connection *own;
	u8 *input, *output;
	size_t input_len, output_len;
	size_t bytes_left;
};

/* Bytes received; 0 if there are none now; negative if there will be none. */
static int receive(struct ub_tcp_connection *own, u8 *to, size_t room)
{
	struct msghdr message = { .msg_flags = MSG_DONTWAIT };
	struct kvec vector = { to, room };
	int got;

	if (!room)
		return -EMSGSIZE;
	got = kernel_recvmsg(own->socket, &message, &vector, 1, room, MSG_DONTWAIT);
	if (got == -EAGAIN)
		return 0;
	if (got == 0)
		return -EPIPE;
	if (got > 0)
		ub_count_add(bytes_read, got);
	return got;
}

/* Bytes that the socket took; negative if it will take none any more. */
static ssize_t send(struct ub_tcp_connection *own, const u8 *bytes, size_t len)
{
	size_t sent = 0;

	while (sent < len) {
		struct msghdr message = { .msg_flags = MSG_DONTWAIT | MSG_NOSIGNAL };
		struct kvec vector = { (void *)(bytes + sent), len - sent };
		int took = kernel_sendmsg(own->socket, &message, &vector, 1, len - sent);

		if (took == -EAGAIN || took == 0)
			break;
		if (took < 0)
			return took;
		sent += took;
	}
	ub_count_add(bytes_written, sent);
	return sent;
}

/* Sends what was parked. WAIT: not all of it; AGAIN: all, go on. */
static enum outcome send_parked(struct ub_tcp_connection *own)
{
	struct ub_parked *parked = &own->output;
	ssize_t sent = send(own, parked->bytes + parked->start, parked_len(parked));

	if (sent < 0)
		return CLOSE;
	parked->start += sent;
	if (parked_len(parked))
		return WAIT;
	park_nothing(parked);
	return AGAIN;
}

/* While replies do not go out: a client that writes all its requests before it reads would else wait for us for ever. */
static enum outcome read_ahead(struct turn *turn)
{
	struct ub_tcp_connection *own = turn->own;
	size_t there = parked_len(&own->input);
	int got;

	if (there >= AHEAD_BYTES || atomic64_read(&parked_bytes) > parked_bytes_max / 2)
		return WAIT;
	got = receive(own, turn->input, AHEAD_BYTES - there);
	/* The end is heard again when what is owed has been sent. */
	return got <= 0 || park(&own->input, turn->input, got) ? WAIT : CLOSE;
}

static u32 serve(struct turn *turn)
{
	struct unbuckle_turn call = {
		.input = turn->input,
		.input_len = turn->input_len,
		.output = turn->output,
		.output_room = UB_OUTPUT_BYTES,
		.now_s = ub_now_s(),
	};
	struct ub_engine *engine = ub_engine_take(turn->own->worker->engine);

	unbuckle_turn(ub_core, engine->number, &turn->own->session, &call);
	ub_engine_give(engine);
	turn->input_len -= call.consumed;
	memmove(turn->input, turn->input + call.consumed, turn->input_len);
	turn->output_len = call.output_filled;
	turn->bytes_left -= min(turn->bytes_left, call.consumed + call.output_filled);
	return call.next;
}

/* Sends the turn's output; AGAIN: all of it. */
static enum outcome reply(struct turn *turn)
{
	struct ub_tcp_connection *own = turn->own;
	size_t len = turn->output_len, again;
	ssize_t sent = len ? send(own, turn->output, len) : 0;
	struct ub_engine *engine;

	turn->output_len = 0;
	if (sent < 0)
		return CLOSE;
	if (sent == len)
		return AGAIN;
	engine = ub_engine_take(own->worker->engine);
	again = unbuckle_unsend(ub_core, engine->number, &own->session, len - sent);
	ub_engine_give(engine);
	return park(&own->output, turn->output + sent, len - sent - again) ? WAIT : CLOSE;
}

static enum outcome serve_and_reply(struct turn *turn)
{
	struct ub_tcp_connection *own = turn->own;

	for (;;) {
		u32 next = serve(turn);
		enum outcome outcome = reply(turn);

		own->midway = next != UNBUCKLE_INPUT;
		if (outcome == WAIT) {
			own->midway = true;
			own->closing = next == UNBUCKLE_CLOSE;
		}
		if (outcome != AGAIN)
			return outcome;
		if (next == UNBUCKLE_CLOSE)
			return CLOSE;
		if (next == UNBUCKLE_YIELD)
			ub_count(yields);
		/* Alone or not, a connection with more requests goes to the end of the queue, which may be its front. */
		if (next == UNBUCKLE_YIELD || (next == UNBUCKLE_OUTPUT && !turn->bytes_left))
			return AGAIN;
		if (next == UNBUCKLE_INPUT)
			return WAIT;
	}
}

static enum outcome take_turn(struct turn *turn)
{
	struct ub_tcp_connection *own = turn->own;
	bool serve_first = own->midway;
	enum outcome outcome;
	int got;

	if (parked_len(&own->output)) {
		outcome = send_parked(own);
		if (outcome == WAIT)
			return read_ahead(turn);
		if (outcome == CLOSE || own->closing)
			return CLOSE;
	}
	turn->input_len = parked_len(&own->input);
	if (turn->input_len) {
		memcpy(turn->input, own->input.bytes + own->input.start, turn->input_len);
		park_nothing(&own->input);
	}
	for (;;) {
		if (!serve_first) {
			got = receive(own, turn->input + turn->input_len, UB_INPUT_BYTES - turn->input_len);
			if (got <= 0)
				return got ? CLOSE : WAIT;
			turn->input_len += got;
		}
		serve_first = false;
		outcome = serve_and_reply(turn);
		if (outcome != WAIT || parked_len(&own->output))
			return outcome;
		/* A value that could not be sent whole is made again, when there is room: nothing of it is parked. */
		if (own->midway)
			return WAIT;
		if (!turn->bytes_left)
			return AGAIN;
	}
}

static void work(struct work_struct *item)
{
	struct ub_tcp_connection *own = container_of(item, struct ub_tcp_connection, work);
	struct turn turn = {
		.own = own,
		.input = own->worker->input,
		.output = own->worker->output,
		.bytes_left = TURN_BYTES,
	};
	enum outcome outcome;

	if (own->closed)
		return put(own);
	outcome = READ_ONCE(own->told_to_close) ? CLOSE : take_turn(&turn);
	WRITE_ONCE(own->active_s, ub_now_s());
	if (outcome != CLOSE && !park(&own->input, turn.input, turn.input_len))
		outcome = CLOSE;
	if (outcome == CLOSE)
		close(own);
	else if (outcome == AGAIN)
		enqueue(own);
	put(own);
}

/* ---- all of them ---- */

void ub_tcp_connections_start(const struct ub_parameters *parameters)
{
	parked_bytes_max = PARKED_BYTES_BASE + parameters->core.memory_bytes / PARKED_SHARE;
}

static void tell_to_close(struct ub_tcp_connection *own)
{
	WRITE_ONCE(own->told_to_close, true);
	enqueue(own);
}

void ub_tcp_connections_kick(u32 idle_s)
{
	struct ub_tcp_connection *own;
	u32 now_s = ub_now_s();

	spin_lock(&all_lock);
	list_for_each_entry(own, &all, list) {
		if (now_s - READ_ONCE(own->active_s) <= idle_s)
			continue;
		ub_count(idle_kicks);
		tell_to_close(own);
	}
	spin_unlock(&all_lock);
}

void ub_tcp_connections_close(struct ub_tcp_listeners *listeners)
{
	struct ub_tcp_connection *own;

	spin_lock(&all_lock);
	list_for_each_entry(own, &all, list)
		if (own->listener->all == listeners)
			tell_to_close(own);
	spin_unlock(&all_lock);
	wait_event(none_left, !atomic_read(&listeners->connections));
}
