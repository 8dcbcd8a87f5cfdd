// Package store is the gateway's view of the API server, and its only way to write to it.
//
// What it reads it keeps as small records of its own, filled by watches. Answers come from memory and stay what they were while the API
// server is away. What it writes about endpoints goes through one pacer, which keeps only the newest state of each and never writes what
// is there already. A Lease tells the manager that this gateway lives.
package store
