// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * The network namespaces in which it is served: the one of whoever loads the module, and those that were added through
 * /proc/unbuckle_namespaces. Never all of them.
 *
 * Home lives as long as the module. An added one does not live any longer for being served: when it dies, or when the
 * module goes, it is left. (A connection that was closed holds its namespace until its last words are acknowledged or
 * given up, as any process's does.)
 */
#include <linux/ctype.h>
#include <linux/in.h>
#include <linux/mutex.h>
#include <linux/net.h>
#include <linux/nsproxy.h>
#include <linux/proc_fs.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>
#include <net/netns/generic.h>
#include "shim.h"

#define FILE_NAME "unbuckle_namespaces"
/* The longest line that can mean anything. */
#define LINE_BYTES 32

/* What is kept of every namespace; zeroed where it is not served. */
struct served {
	struct list_head list;
	struct net *net;
	struct ub_udp_sockets udp;
	struct ub_tcp_listeners tcp;
};

static unsigned int own_id;
static const struct ub_parameters *parameters;
static struct net *home;
static LIST_HEAD(all);
/* Over all of this. A namespace that dies takes it, too: nothing that waits for such a death may be done under it. */
static DEFINE_MUTEX(lock);

static int enter_udp(struct net *net, struct ub_udp_sockets *sockets)
{
	int error;

	if (!parameters->udp)
		return 0;
	error = ub_udp_sockets_start(sockets, net, parameters);
	if (error)
		return error;
	error = ub_hook_start(net);
	if (error)
		ub_udp_sockets_stop(sockets);
	return error;
}

static void leave_udp(struct net *net, struct ub_udp_sockets *sockets)
{
	if (!parameters->udp)
		return;
	ub_hook_stop(net);
	ub_udp_sockets_stop(sockets);
}

static int enter(struct net *net)
{
	struct served *own = net_generic(net, own_id);
	int error;

	if (own->net)
		return -EEXIST;
	error = enter_udp(net, &own->udp);
	if (error)
		return error;
	error = parameters->tcp ? ub_tcp_listen(&own->tcp, net, parameters) : 0;
	if (error) {
		leave_udp(net, &own->udp);
		return error;
	}
	own->net = net;
	list_add_tail(&own->list, &all);
	return 0;
}

static int leave(struct net *net)
{
	struct served *own = net_generic(net, own_id);

	if (!own->net)
		return -ENOENT;
	if (parameters->tcp)
		ub_tcp_unlisten(&own->tcp);
	leave_udp(net, &own->udp);
	list_del(&own->list);
	own->net = NULL;
	return 0;
}

static void __net_exit dies(struct net *net)
{
	mutex_lock(&lock);
	leave(net);
	mutex_unlock(&lock);
}

static struct pernet_operations operations = {
	.exit = dies,
	.id = &own_id,
	.size = sizeof(struct served),
};

static int show(struct seq_file *file, void *unused)
{
	struct served *own;

	mutex_lock(&lock);
	list_for_each_entry(own, &all, list)
		seq_printf(file, "net:[%u]%s\n", own->net->ns.inum, own->net == home ? " home" : "");
	mutex_unlock(&lock);
	return 0;
}

static int open(struct inode *inode, struct file *file)
{
	return single_open(file, show, NULL);
}

/* The namespace that a line is about: that of a process, or the writer's own. Held. */
static struct net *meant(const char *pid)
{
	unsigned int number;

	if (!*pid)
		return get_net(current->nsproxy->net_ns);
	if (kstrtouint(pid, 10, &number))
		return ERR_PTR(-EINVAL);
	return get_net_ns_by_pid(number);
}

/* `add` or `remove`, and perhaps a process. */
static int change(char *line)
{
	char *word = strim(line), *pid = word;
	struct net *net;
	int error;

	while (*pid && !isspace(*pid))
		pid++;
	if (*pid)
		*pid++ = '\0';
	if (strcmp(word, "add") && strcmp(word, "remove"))
		return -EINVAL;
	net = meant(skip_spaces(pid));
	if (IS_ERR(net))
		return PTR_ERR(net);
	mutex_lock(&lock);
	if (!strcmp(word, "add"))
		error = enter(net);
	else
		error = net == home ? -EBUSY : leave(net);
	mutex_unlock(&lock);
	/* Perhaps the last reference: what follows from that does not happen here. */
	put_net(net);
	return error;
}

static ssize_t write(struct file *file, const char __user *text, size_t len, loff_t *offset)
{
	char line[LINE_BYTES] = "";
	int error;

	if (len >= sizeof(line))
		return -EINVAL;
	if (copy_from_user(line, text, len))
		return -EFAULT;
	error = change(line);
	return error ?: len;
}

static const struct proc_ops file_operations = {
	.proc_open = open,
	.proc_read = seq_read,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
	.proc_write = write,
};

/*
 * The first socket of a family may have its kernel module loaded, and that waits until no namespace is dying; one that dies
 * may wait for us. So it is made while we hold nothing.
 */
static void load_ipv6(void)
{
	struct socket *socket;

	if (!sock_create_kern(home, AF_INET6, SOCK_DGRAM, IPPROTO_UDP, &socket))
		sock_release(socket);
}

int ub_namespaces_start(struct net *net, const struct ub_parameters *from)
{
	int error;

	home = net;
	parameters = from;
	load_ipv6();
	/* As a device, so that it leaves before the others do: connections are told. */
	error = register_pernet_device(&operations);
	if (error) {
		pr_err("cannot be told of namespaces: error %d\n", error);
		return error;
	}
	mutex_lock(&lock);
	error = enter(home);
	mutex_unlock(&lock);
	if (!error && !proc_create(FILE_NAME, 0600, NULL, &file_operations)) {
		pr_err("cannot make /proc/" FILE_NAME "\n");
		error = -ENOMEM;
	}
	/* Leaves what was entered. */
	if (error)
		unregister_pernet_device(&operations);
	return error;
}

void ub_namespaces_stop(void)
{
	remove_proc_entry(FILE_NAME, NULL);
	unregister_pernet_device(&operations);
}
