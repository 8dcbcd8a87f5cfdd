// Command rollcall-relay stands between agents and a gateway and misbehaves as networks and proxies do, see package relay. While it runs:
//
//	curl --unix-socket relay.sock http://relay/mode
//	curl --unix-socket relay.sock -X PUT --data half-open http://relay/mode
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-logr/zapr"
	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"github.com/rollcall-dev/rollcall/test/relay"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "rollcall-relay:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var c relay.Config
	f := pflag.NewFlagSet("rollcall-relay", pflag.ContinueOnError)
	f.SortFlags = false
	listen := f.String("listen", "", "host:port that agents dial")
	f.StringVar(&c.Gateway, "gateway", "", "host:port of the gateway")
	certificate := f.String("certificate", "", "PEM file of the certificate to end TLS with, followed by that of the server CA that signed it")
	key := f.String("key", "", "PEM file of its key")
	f.StringArrayVar(&c.Agents, "agents", nil, "state directories of agents, as a pattern; may be there several times")
	control := f.String("control", "", "Unix socket to steer it by")
	first := f.String("mode", "pass", "what to do at first: pass, block, cut=<seconds>, swallow[=pings|pongs] or half-open[=all]")
	if err := f.Parse(args); err != nil {
		return err
	}
	mode, err := relay.ParseMode(*first)
	if err != nil {
		return err
	}
	if c.Certificate, err = tls.LoadX509KeyPair(*certificate, *key); err != nil {
		return fmt.Errorf("the certificate to end TLS with (--certificate, --key): %w", err)
	}
	z, err := zap.NewProduction()
	if err != nil {
		return err
	}
	c.Log = zapr.NewLogger(z)
	r, err := relay.New(c)
	if err != nil {
		return err
	}
	r.Switch(mode)
	return serve(ctx, r, *listen, *control)
}

// serve runs the relay and its control until ctx ends.
func serve(ctx context.Context, r *relay.Relay, address, socket string) error {
	agents, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	if i, err := os.Lstat(socket); err == nil && i.Mode().Type() == fs.ModeSocket { // of one that was killed
		_ = os.Remove(socket) // Listen says what is wrong
	}
	control, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: r.Control(), ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second}
	failed := make(chan error, 2)
	go func() { failed <- server.Serve(control) }()
	go func() { failed <- r.Serve(agents) }()
	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
	}
	_ = server.Close()
	r.Close()
	return err
}
