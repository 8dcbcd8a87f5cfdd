// Command demo is what `make run`, `make env`, `make agents`, `make block`, `make stop` and `make clean` call: the real thing on this machine,
// with its state in .run/.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		if !errors.Is(err, context.Canceled) {
			fmt.Fprintln(os.Stderr, "rollcall:", err)
		}
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{Use: "demo", SilenceErrors: true, SilenceUsage: true}
	var d demo
	root.PersistentFlags().StringVar(&d.dir, "dir", ".run", "where the demo keeps its state")
	root.PersistentFlags().StringVar(&d.bin, "bin", "", "where the programs are; empty: build them into bin/")
	run := &cobra.Command{Use: "run", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return d.run(c.Context()) }}
	run.Flags().StringVar(&d.kubeconfig, "kubeconfig", "", "use the cluster of this kubeconfig instead of one of our own")
	run.Flags().IntVar(&d.port, "gateway-port", 8443, "port that agents dial, on 127.0.0.1")
	var n int
	agents := &cobra.Command{Use: "agents", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return d.agents(c.Context(), n) }}
	agents.Flags().IntVarP(&n, "number", "n", 50, "how many")
	root.AddCommand(run, agents,
		&cobra.Command{Use: "relay MODE", Args: cobra.ExactArgs(1), RunE: func(c *cobra.Command, args []string) error { return d.misbehave(c.Context(), args[0]) }},
		&cobra.Command{Use: "env", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return d.env() }},
		&cobra.Command{Use: "stop", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return d.stop(c.Context()) }},
		&cobra.Command{Use: "clean", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return d.clean(c.Context()) }},
	)
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return d.open(os.Stdout) }
	return root
}
