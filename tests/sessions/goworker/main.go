// goworker is a voice worker in Go, of which only the session storage of omnivoice-core is left: what the tests compare with.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/plexusone/omnivoice-core/storage"
)

const usage = "usage: goworker save|load|heartbeat|end|delete|serve URL ID, watched URL ID SOCKET [--late], list URL, remarshal, golden"

func main() {
	log.SetFlags(0)
	args := os.Args[1:]
	if len(args) == 1 && args[0] == "remarshal" {
		remarshal()
		return
	}
	if len(args) == 1 && args[0] == "golden" {
		golden()
		return
	}
	if len(args) < 2 {
		log.Fatal(usage)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	store, err := storage.NewRedisStore(args[1])
	check(err)
	if args[0] == "list" {
		ids, err := store.ListActive(ctx)
		check(err)
		print(ids)
		return
	}
	if len(args) < 3 {
		log.Fatal(usage)
	}
	id := args[2]
	switch args[0] {
	case "save":
		check(store.Save(ctx, call(id)))
	case "load":
		session, err := store.Load(ctx, id)
		check(err)
		print(session)
	case "heartbeat":
		check(store.UpdateHeartbeat(ctx, id))
	case "end":
		session, err := store.Load(ctx, id)
		check(err)
		session.Status = storage.StatusEnded
		check(store.Save(ctx, session))
	case "delete":
		check(store.Delete(ctx, id))
	case "serve": // a call that goes on until this process is killed
		session := call(id)
		check(store.Save(ctx, session))
		fmt.Println("serving")
		for {
			time.Sleep(20 * time.Millisecond)
			check(store.UpdateHeartbeat(ctx, id))
		}
	case "watched": // the same, known to a coordinator; it ends with the call when its input ends
		watched(ctx, store, id, args[3], len(args) > 4)
	default:
		log.Fatal(usage)
	}
}

// watched serves a call as before, with three lines more: watch, bind and done. late is a worker that hears too late that it is
// over, and saves once more.
func watched(ctx context.Context, store storage.SessionStore, id, socket string, late bool) {
	worker, err := watch(socket, "go-"+id, func(_, reason string) {
		if !late {
			log.Fatal("over: ", reason)
		}
	})
	check(err)
	session := call(id)
	check(store.Save(ctx, session))
	check(worker.bind(id))
	fmt.Println("serving")
	hangup := make(chan bool)
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		close(hangup)
	}()
	for n := 0; ; n++ {
		select {
		case <-hangup:
			session.Status = storage.StatusEnded
			check(store.Save(ctx, session))
			check(worker.done(id))
			fmt.Println("ended")
			return
		case <-time.After(20 * time.Millisecond):
			session.AddTurn("user", fmt.Sprint("and ", n), 10)
			check(store.Save(ctx, session))
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal("error: ", err)
	}
}

func print(value any) {
	text, err := json.Marshal(value)
	check(err)
	fmt.Println(string(text))
}

func call(id string) *storage.SessionState {
	s := storage.NewSessionState(id)
	s.CallID = "CA123456"
	s.Provider = "twilio"
	s.Direction = storage.DirectionInbound
	s.From, s.To = "+15551234567", "+15559876543"
	s.Status = storage.StatusActive
	s.RecoveryData = map[string]any{"call_sid": "CA123456", "stream_sid": "MZ789012", "sequence": 42}
	s.AddTurn("user", "Hello, I need help with <this> & that", 1500)
	s.AddTurn("agent", "How can I help?", 2200)
	s.AddTurn("user", "Grüße aus Köln \u2028 🎧", 1800)
	return s
}

// remarshal reads a session a line, and writes it as Go would, or "error: ..." where Go cannot read it.
func remarshal() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var session storage.SessionState
		if err := json.Unmarshal(lines.Bytes(), &session); err != nil {
			fmt.Println("error: " + strings.ReplaceAll(err.Error(), "\n", " "))
			continue
		}
		print(&session)
	}
	check(lines.Err())
}

// golden writes sessions with fixed times, a name and a session a line.
func golden() {
	india := time.FixedZone("", 5*3600+1800)
	at := time.Date(2026, 7, 19, 17, 30, 0, 123456789, india)
	full := call("call-123")
	full.CreatedAt, full.UpdatedAt = at, at.Add(1500*time.Millisecond).UTC()
	for i := range full.History {
		full.History[i].Timestamp = at.Add(time.Duration(i) * 1234567 * time.Microsecond)
	}
	full.Metrics.FirstResponseMs, full.Metrics.AverageResponseMs = 310, 290
	fresh := storage.NewSessionState("fresh")
	fresh.CreatedAt, fresh.UpdatedAt = at.UTC(), at.UTC().Truncate(time.Second)
	data := storage.NewSessionState("data/with:every~kind")
	data.CreatedAt, data.UpdatedAt = at, at
	data.RecoveryData = map[string]any{
		"zero": 0.0, "minus_zero": negativeZero(), "half": 0.5, "small": 1e-7, "smaller": 1.5e-300, "edge": 1e21, "below": 1e20, "large": 1.7976931348623157e308,
		"int": 1 << 53, "big": uint64(18446744073709551615), "text": "tab\t bell\x07 del\x7f \b\f quote\" back\\ slash/", "nothing": nil, "yes": true,
		"list": []any{1, "two", 3.25, map[string]any{"z": 1, "a": 2, "Z": 3, "é": 4}}, "empty": map[string]any{}, "none": []any{},
	}
	write("full", full)
	write("fresh", fresh)
	write("literal", &storage.SessionState{ID: "literal", Status: storage.StatusEnded})
	write("data", data)
}

func negativeZero() float64 { // a constant -0.0 is 0 in Go
	zero := 0.0
	return zero * sign
}

var sign = -1.0

func write(name string, session *storage.SessionState) {
	fmt.Print(name, "\t")
	print(session)
}
