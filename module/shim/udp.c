// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * UDP: a request in a packet, its replies in packets of their own. Replies are what the stack would send from a bound
 * socket: routed, a fresh TTL, no options; they pass the output hooks of the host's firewall.
 */
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <net/ip.h>
#include <net/ip6_checksum.h>
#include <net/ip6_route.h>
#include <net/ipv6.h>
#include <net/route.h>
#include <net/udp.h>
#include "shim.h"

/* The longest reply datagram: see rust/src/datagram.rs. */
#define PAYLOAD_BYTES_MAX 1400
/* For one request, so that what is queued before any of it leaves is bounded. */
#define REPLIES_MAX 256
#define HEAD_ROOM (LL_MAX_HEADER + sizeof(struct ipv6hdr) + sizeof(struct udphdr))

struct replies {
	struct sk_buff_head queue;
	bool lost;
};

void unbuckle_shim_reply(void *context, const u8 *frame, const u8 *payload, size_t len)
{
	struct replies *replies = context;
	struct sk_buff *skb;

	if (len > PAYLOAD_BYTES_MAX - UNBUCKLE_FRAME_BYTES || skb_queue_len(&replies->queue) >= REPLIES_MAX) {
		replies->lost = true;
		return;
	}
	skb = alloc_skb(HEAD_ROOM + UNBUCKLE_FRAME_BYTES + len, GFP_ATOMIC | __GFP_NOWARN);
	if (!skb) {
		replies->lost = true;
		return;
	}
	skb_reserve(skb, HEAD_ROOM);
	skb_put_data(skb, frame, UNBUCKLE_FRAME_BYTES);
	skb_put_data(skb, payload, len);
	__skb_queue_tail(&replies->queue, skb);
}

static struct udphdr *push_udp(struct sk_buff *reply, const struct udphdr *request)
{
	struct udphdr *udp = skb_push(reply, sizeof(*udp));

	skb_reset_transport_header(reply);
	udp->source = request->dest;
	udp->dest = request->source;
	udp->len = htons(reply->len);
	udp->check = 0;
	return udp;
}

static int send_ipv4(struct net *net, struct sk_buff *reply, const struct sk_buff *request)
{
	const struct iphdr *asked = ip_hdr(request);
	struct udphdr *udp = push_udp(reply, udp_hdr(request));
	struct flowi4 flow = {
		.daddr = asked->saddr,
		.saddr = asked->daddr,
		.flowi4_proto = IPPROTO_UDP,
		.flowi4_mark = IP4_REPLY_MARK(net, request->mark),
		.fl4_sport = udp->source,
		.fl4_dport = udp->dest,
	};
	struct rtable *route = ip_route_output_key(net, &flow);
	struct iphdr *ip;

	if (IS_ERR(route)) {
		kfree_skb(reply);
		return PTR_ERR(route);
	}
	/* The device adds it up, or the stack does for it. */
	udp_set_csum(false, reply, asked->daddr, asked->saddr, reply->len);
	ip = skb_push(reply, sizeof(*ip));
	skb_reset_network_header(reply);
	*ip = (struct iphdr){
		.version = 4,
		.ihl = sizeof(*ip) / 4,
		.frag_off = htons(IP_DF),
		.ttl = ip4_dst_hoplimit(&route->dst),
		.protocol = IPPROTO_UDP,
		.saddr = asked->daddr,
		.daddr = asked->saddr,
	};
	reply->protocol = htons(ETH_P_IP);
	reply->mark = flow.flowi4_mark;
	skb_dst_set(reply, &route->dst);
	return ip_local_out(net, NULL, reply);
}

#if IS_ENABLED(CONFIG_IPV6)
static int send_ipv6(struct net *net, struct sk_buff *reply, const struct sk_buff *request, int interface)
{
	const struct ipv6hdr *asked = ipv6_hdr(request);
	struct udphdr *udp = push_udp(reply, udp_hdr(request));
	unsigned int len = reply->len;
	struct flowi6 flow = {
		.daddr = asked->saddr,
		.saddr = asked->daddr,
		.flowi6_proto = IPPROTO_UDP,
		.flowi6_mark = IP6_REPLY_MARK(net, request->mark),
		.fl6_sport = udp->source,
		.fl6_dport = udp->dest,
	};
	struct dst_entry *route;
	struct ipv6hdr *ip;

	/* A link-local address means nothing without its link. */
	if (ipv6_addr_type(&asked->saddr) & IPV6_ADDR_LINKLOCAL)
		flow.flowi6_oif = interface;
	route = ip6_route_output(net, NULL, &flow);
	if (route->error) {
		int error = route->error;

		dst_release(route);
		kfree_skb(reply);
		return error;
	}
	udp6_set_csum(false, reply, &asked->daddr, &asked->saddr, len);
	ip = skb_push(reply, sizeof(*ip));
	skb_reset_network_header(reply);
	ip6_flow_hdr(ip, 0, 0);
	ip->payload_len = htons(len);
	ip->nexthdr = IPPROTO_UDP;
	ip->hop_limit = ip6_dst_hoplimit(route);
	ip->saddr = asked->daddr;
	ip->daddr = asked->saddr;
	reply->protocol = htons(ETH_P_IPV6);
	reply->mark = flow.flowi6_mark;
	skb_dst_set(reply, route);
	return ip6_local_out(net, NULL, reply);
}
#else
static int send_ipv6(struct net *net, struct sk_buff *reply, const struct sk_buff *request, int interface)
{
	kfree_skb(reply);
	return -EAFNOSUPPORT;
}
#endif

static void send_all(struct net *net, struct sk_buff_head *queue, const struct sk_buff *request, int interface)
{
	struct sk_buff *reply;

	while ((reply = __skb_dequeue(queue))) {
		unsigned int bytes = reply->len;
		int error;

		reply->priority = request->priority;
		if (ip_hdr(request)->version == 4)
			error = send_ipv4(net, reply, request);
		else
			error = send_ipv6(net, reply, request, interface);
		if (net_xmit_eval(error)) {
			ub_count(udp_dropped_unsent);
		} else {
			ub_count(udp_replies);
			ub_count_add(bytes_written, bytes);
		}
	}
}

bool ub_udp_serve(struct net *net, struct sk_buff *skb, int interface)
{
	const struct udphdr *udp = udp_hdr(skb);
	/* Not what the header says: over IPv6 that may be 0. */
	size_t len = skb_tail_pointer(skb) - (const u8 *)(udp + 1);
	struct replies replies = {};
	struct ub_engine *engine;
	struct in6_addr source;
	u32 answered;

	/* What comes from a port like ours would be answered with a reply to it, and so on for ever. */
	if (udp->source == 0 || udp->source == udp->dest) {
		ub_count(udp_dropped_malformed);
		return false;
	}
	if (ip_hdr(skb)->version == 4)
		ipv6_addr_set_v4mapped(ip_hdr(skb)->saddr, &source);
	else
		source = ipv6_hdr(skb)->saddr;
	__skb_queue_head_init(&replies.queue);
	ub_count_add(bytes_read, len);
	engine = ub_engine_take_local();
	answered = unbuckle_datagram(ub_core, engine->number, (const u8 *)(udp + 1), len, source.s6_addr,
				     ub_now_s(), &replies);
	spin_unlock(&engine->lock);
	/* Packets leave when the engine is free again: their way may be long. */
	send_all(net, &replies.queue, skb, interface);
	local_bh_enable();
	if (answered == UNBUCKLE_MALFORMED)
		ub_count(udp_dropped_malformed);
	if (answered == UNBUCKLE_TOO_LONG)
		ub_count(udp_dropped_size);
	if (answered == UNBUCKLE_TOO_OFTEN)
		ub_count(udp_dropped_rate);
	if (replies.lost)
		ub_count(udp_dropped_unsent);
	return answered == UNBUCKLE_SERVED;
}
