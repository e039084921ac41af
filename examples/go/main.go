// A voice worker in Go, with nothing but the standard library: it talks HTTP to the sidecar on this machine.
//
//	voice-worker -socket /run/recovery/sidecar.sock -name voice-1 call-1 call-2
//
// It opens the calls that it is given. Its own interface (-telephone) stands in for the telephone network: POST /calls/ID is an
// incoming call, DELETE /calls/ID its end, GET /calls says for which calls it speaks at this moment. A frame of audio is a datagram to
// where the call came from: {"media": "host:port"}; with "ssrc" and "timestamp" beside it, a packet of RTP (rtp.go). Started by `coordinator supervise` it needs no flags.
//
// Four rules, the same in examples/node and examples/kubernetes:
//
//  1. It speaks only while it may: while nobody else can have its calls. The sidecar says for how long; in doubt, whether to go on.
//  2. No answer ends it, and none is left unread. What the sidecar cannot be told now it is told later; of checkpoints only the newest.
//  3. A call that is over here (it ended, was lost, or could not be served) is not taken up again by an answer that is older than that.
//  4. When its instance is over, its calls are lost, and it starts over as another instance.
//
// It prints a line of JSON for each thing that happens to it or to a call. trust.go is rule 1; sidecar.go asks; errands.go is what the
// sidecar is told, stream.go what it tells, worker.go what becomes of calls.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

type fields map[string]any

var output sync.Mutex

func tell(what string, more fields) {
	more["what"], more["at"] = what, float64(time.Now().UnixMilli())/1000
	text, _ := json.Marshal(more)
	output.Lock()
	defer output.Unlock()
	fmt.Println(string(text))
}

func short(text string) string {
	if len(text) > 200 {
		return text[:200]
	}
	return text
}

// begin opens the calls that were given, however long it takes; what is somebody else's is left to them.
func begin(w *Worker, calls []string) {
	<-w.registered
	for _, session := range calls {
		answer := w.Open(session, nil)
		for answer.status == 0 || answer.status >= 500 {
			answer = w.Open(session, nil)
		}
		if !answer.done() {
			tell("refused", fields{"request": "open", "session": session, "status": answer.status, "detail": answer.Detail})
		}
	}
	w.Lock()
	defer w.Unlock()
	tell("ready", fields{"instance": w.instance, "pid": os.Getpid()})
}

func forever(step func(), pause time.Duration) {
	for {
		step()
		time.Sleep(pause)
	}
}

func main() {
	socket := flag.String("socket", os.Getenv("RECOVERY_SOCKET"), "unix socket of the sidecar")
	url := flag.String("url", os.Getenv("RECOVERY_URL"), "of the sidecar, where it has no socket; default: http://127.0.0.1:9410")
	name := flag.String("name", "go-worker", "stable name of this worker")
	pool := flag.String("pool", "", "whose offers it takes; default: the sidecar's")
	capacity := flag.Int("capacity", 1000, "calls that it takes by offers")
	interval := flag.Duration("checkpoint", time.Second, "between two checkpoints of a call")
	address := flag.String("telephone", "", "address of its own interface, such as :8080; none by default")
	flag.Parse()

	audio, err := net.ListenPacket("udp4", ":0")
	worker := &Worker{
		http: newClient(*socket), url: *url, name: *name, pool: *pool, capacity: *capacity, interval: *interval, audio: audio,
		wake: make(chan struct{}, 1), registered: make(chan struct{}), trust: Trust{since: now(), ticked: now()},
		instance: os.Getenv("RECOVERY_INSTANCE"), token: os.Getenv("RECOVERY_WORKER_TOKEN"),
		calls: map[string]*Call{}, ending: map[string]*Call{}, lost: map[string]loss{}, refused: map[string]map[int]bool{},
	}
	if *socket != "" {
		worker.url = "http://localhost"
	} else if *url == "" {
		worker.url = "http://127.0.0.1:9410"
	}
	if worker.instance != "" { // a supervisor registered it
		worker.name, _, _ = strings.Cut(worker.instance, "~")
	}
	if err == nil && *address != "" {
		err = telephone(worker, *address)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "voice-worker:", err)
		os.Exit(1)
	}
	go begin(worker, flag.Args())
	go forever(worker.RunErrands, 0)
	go func() {
		for range time.Tick(tick) { // which keeps its pace, and leaves out what comes too late
			worker.Speak()
		}
	}()
	worker.Live()
}

// telephone stands in for the telephone network.
func telephone(w *Worker, address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	tell("telephone", fields{"port": listener.Addr().(*net.TCPAddr).Port})
	server := &http.Server{ReadTimeout: 10 * time.Second}
	server.Handler = http.HandlerFunc(func(to http.ResponseWriter, from *http.Request) {
		session := strings.TrimPrefix(from.URL.Path, "/calls/")
		status, document := http.StatusOK, fields{}
		switch from.Method {
		case http.MethodPost:
			var data Data
			_ = json.NewDecoder(http.MaxBytesReader(to, from.Body, 1<<16)).Decode(&data) // a call may come without
			answer := w.Open(session, data)
			status, document = answer.status, fields{"session": session, "epoch": answer.Epoch, "detail": answer.Detail}
			if status == 0 {
				status = http.StatusServiceUnavailable
			}
		case http.MethodDelete:
			w.Lock()
			if !w.end(session, ended) {
				status = http.StatusNotFound
			}
			w.Unlock()
		default:
			w.Lock()
			speaking, silent := []string{}, []string{}
			may := w.trust.maySpeak()
			for session := range w.calls {
				if may {
					speaking = append(speaking, session)
				} else {
					silent = append(silent, session)
				}
			}
			w.Unlock()
			document = fields{"worker": w.name, "calls": speaking, "silent": silent}
		}
		to.Header().Set("Content-Type", "application/json")
		to.WriteHeader(status)
		_ = json.NewEncoder(to).Encode(document)
	})
	go func() { _ = server.Serve(listener) }()
	return nil
}
