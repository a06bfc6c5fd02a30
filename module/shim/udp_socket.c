// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * UDP sockets: in each namespace one for each address family. They own the port, so that nobody else can have it and clients are not told
 * that it is closed, and they get whatever the hook leaves: fragments put together, aggregates taken apart, packets with
 * options, the first packet of a flow that is tracked.
 */
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <linux/workqueue.h>
#include <net/ipv6.h>
#include <net/sock.h>
#include <net/udp.h>
#include "shim.h"

/* Requests before others may run. */
#define BUDGET 64

static void ready(struct sock *sk)
{
	struct ub_udp_socket *own;

	read_lock_bh(&sk->sk_callback_lock);
	own = sk->sk_user_data;
	if (own)
		queue_work(system_unbound_wq, &own->work);
	read_unlock_bh(&sk->sk_callback_lock);
}

static void serve(struct sock *sk, struct sk_buff *skb)
{
	int interface = ip_hdr(skb)->version == 4 ? IPCB(skb)->iif : IP6CB(skb)->iif;

	ub_count(udp_from_socket);
	/* What was for everybody is for nobody. */
	if (skb->pkt_type != PACKET_HOST) {
		ub_count(udp_dropped_malformed);
		return;
	}
	if (skb_linearize(skb)) {
		ub_count(out_of_memory);
		return;
	}
	/* The socket's queue holds payloads; udp_hdr() still finds the header. */
	if (udp_lib_checksum_complete(skb)) {
		ub_count(udp_dropped_checksum);
		return;
	}
	ub_udp_serve(sock_net(sk), skb, interface);
}

static void work(struct work_struct *item)
{
	struct ub_udp_socket *own = container_of(item, struct ub_udp_socket, work);
	struct sock *sk = own->socket->sk;
	struct sk_buff *skb;
	int left, error;

	for (left = BUDGET; left > 0; left--) {
		skb = skb_recv_udp(sk, MSG_DONTWAIT, &error);
		if (!skb)
			return;
		serve(sk, skb);
		consume_skb(skb);
	}
	queue_work(system_unbound_wq, &own->work);
}

static int start(struct ub_udp_socket *own, struct net *net, int family, const struct ub_parameters *parameters)
{
	unsigned int port = parameters->port;
	struct sock *sk;
	int error;

	if (!ub_address_has(&parameters->address, family))
		return 0;
	error = sock_create_kern(net, family, SOCK_DGRAM, IPPROTO_UDP, &own->socket);
	if (error == -EAFNOSUPPORT && family == AF_INET6)
		return 0;
	if (error) {
		pr_err("cannot make a UDP socket: error %d\n", error);
		return error;
	}
	error = ub_address_bind(own->socket, &parameters->address, family, port);
	if (error) {
		pr_err("cannot bind UDP port %u (IPv%d): %s\n", port, family == AF_INET ? 4 : 6,
		       ub_address_error(error));
		sock_release(own->socket);
		own->socket = NULL;
		return error;
	}
	INIT_WORK(&own->work, work);
	sk = own->socket->sk;
	write_lock_bh(&sk->sk_callback_lock);
	own->ready_before = sk->sk_data_ready;
	sk->sk_user_data = own;
	sk->sk_data_ready = ready;
	write_unlock_bh(&sk->sk_callback_lock);
	return 0;
}

static void stop(struct ub_udp_socket *own)
{
	struct sock *sk;

	if (!own->socket)
		return;
	sk = own->socket->sk;
	write_lock_bh(&sk->sk_callback_lock);
	sk->sk_data_ready = own->ready_before;
	sk->sk_user_data = NULL;
	write_unlock_bh(&sk->sk_callback_lock);
	cancel_work_sync(&own->work);
	sock_release(own->socket);
	own->socket = NULL;
}

int ub_udp_sockets_start(struct ub_udp_sockets *sockets, struct net *net, const struct ub_parameters *parameters)
{
	int error = start(&sockets->of_family[0], net, AF_INET, parameters);

	if (!error)
		error = start(&sockets->of_family[1], net, AF_INET6, parameters);
	if (error)
		ub_udp_sockets_stop(sockets);
	return error;
}

void ub_udp_sockets_stop(struct ub_udp_sockets *sockets)
{
	stop(&sockets->of_family[0]);
	stop(&sockets->of_family[1]);
	/* A callback that has found nobody may still be on its way out of this file. */
	synchronize_net();
}
