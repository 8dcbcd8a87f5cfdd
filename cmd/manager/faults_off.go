//go:build !faults

package main

import "github.com/spf13/pflag"

func addFaults(*pflag.FlagSet, *options) {}
