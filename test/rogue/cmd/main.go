// Command rollcall-rogue is a gateway in an attacker's hands, see package rogue. While it runs:
//
//	curl --unix-socket rogue.sock http://rogue/forge --data '{"namespace":"fleet","endpoint":"laptop","action":"hello","program":"/usr/bin/sleep"}'
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-logr/zapr"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/rollcall-dev/rollcall/internal/artifact"
	"github.com/rollcall-dev/rollcall/test/rogue"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "rollcall-rogue:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	c := rogue.Config{}
	f := pflag.NewFlagSet("rollcall-rogue", pflag.ContinueOnError)
	f.SortFlags = false
	kubeconfig := f.String("kubeconfig", "", "how to reach the API server")
	token := f.String("token-file", "", "the gateway's API token")
	f.StringVar(&c.Namespace, "namespace", "rollcall-system", "where the manager publishes trust and beacon")
	listen := f.String("listen", "", "host:port that agents dial")
	f.StringSliceVar(&c.Names, "names", nil, "names by which agents reach it, comma separated")
	f.DurationVar(&c.LeaseDuration, "lease-duration", 15*time.Second, "how long its Lease is good")
	f.DurationVar(&c.LeaseRenew, "lease-renew", 5*time.Second, "how often that is renewed")
	artifacts := f.String("artifact-store", "", "where the manager keeps the artifacts of releases")
	socket := f.String("control", "", "Unix socket to steer it by")
	if err := f.Parse(args); err != nil {
		return err
	}
	z, err := zap.NewProduction()
	if err != nil {
		return err
	}
	c.Log = zapr.NewLogger(z)
	klog.SetLogger(c.Log)
	if c.REST, err = clientcmd.BuildConfigFromFlags("", *kubeconfig); err != nil {
		return err
	}
	c.REST = rest.AnonymousClientConfig(c.REST)
	c.REST.BearerTokenFile, c.REST.UserAgent = *token, "rollcall-rogue"
	if c.Artifacts, err = artifact.Open(ctx, *artifacts); err != nil {
		return err
	}
	r, err := rogue.New(c)
	if err != nil {
		return err
	}
	return serve(ctx, r, *listen, *socket)
}

// serve runs the rogue and its control until ctx ends.
func serve(ctx context.Context, r *rogue.Rogue, address, socket string) error {
	agents, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	control, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: r.Control(), ReadHeaderTimeout: 5 * time.Second}
	defer server.Close()
	go func() { _ = server.Serve(control) }() // whoever steers it finds out
	return r.Run(ctx, agents)
}
