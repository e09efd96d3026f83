// Scaled dot-product attention with an online softmax.
//
// Keys are taken in blocks of kBlock, counted from key 0. A block b gives each row
//   m_b = max_j s_j,   p_j = 2^(s_j - m_b),   l_b = sum_j p_j,   o_b = sum_j p_j v_j
// with s_j = (scale q).k_j + bias_j, all of it times log2 e: the softmax is taken to base 2. Blocks are merged in
// order:
//   M' = max(M, m_b),   L' = L 2^(M - M') + l_b 2^(m_b - M'),   O' likewise;   at the end   out = O / L.
// Both products are register tiles: over D with 16 keys of a page side by side, over keys with the columns of v side by
// side. Every sum runs over j or d in order, or over fixed lanes, and a row never reads another row's data, so its bits
// depend on itself alone. attention() and attention_partial() + attention_merge() are made of the same pieces.
//
// attention_scores.inl and attention_values.inl do one block for a few rows; here blocks are the outer loop: the rows
// of a call pass over a block in groups of kTileRows while it is in the cache. Where they are one group of few rows, it
// takes the keys of several blocks, a run, and then their values: memory is read in longer stretches.

// Merges a block's m and l into the rows' running values, and gives the factors of O and of o_b. A block that a row
// does not see (m = -inf) changes nothing. NaN goes through. All arrays have kRowSlots elements.
void merge_block(const float* m, const float* l, int rows, RowGroup& group, float* keep, float* add) {
  for (int r = 0; r < rows; r += kLanes) {
    const Vf m_b = load(m + r), M = load(group.M + r), L = load(group.L + r), lowest = set1(-kInfinity);
    const Vf larger = select(either(less(M, m_b), is_nan(m_b)), m_b, M);
    const Vm unseen = equal(m_b, lowest);
    const Vf a = select(unseen, set1(1.0f), exp2_below_overflow(M - larger));
    const Vf b = select(unseen, set1(0.0f), exp2_below_overflow(m_b - larger));
    store(group.M + r, larger);
    store(group.L + r, L * a + load(l + r) * b);
    store(keep + r, a);
    store(add + r, b);
  }
}

// The group's rows, what they see, and nothing seen yet.
void start_group(const AttentionArgs& args, int row, int rows, RowGroup& group) {
  group.row = row;
  group.rows = rows;
  group.pages = 0;
  group.blank = false;
  group.first = group.all_to = INT64_MAX;
  group.last = group.all_from = 0;
  for (int r = row; r < row + rows; ++r) {
    const bool empty = args.lo[r] >= args.hi[r];
    group.all_from = maximum(group.all_from, empty ? INT64_MAX : args.lo[r]);
    group.all_to = minimum(group.all_to, empty ? 0 : args.hi[r]);
    if (empty) continue;
    group.first = minimum(group.first, args.lo[r]);
    group.last = maximum(group.last, args.hi[r]);
  }
  for (int r = 0; r < kRowSlots; ++r) {
    group.M[r] = -kInfinity;
    group.L[r] = 0.0f;
  }
}

// scale * log2 e * q, as the product with the keys takes it, in runs of kRun of each row: to[run][row][kRun], zeros
// behind the last d. The tile then walks some lines at once, and nothing needs to be turned.
template <class T>
void take_queries_of(const AttentionArgs& args, const RowGroup& group) {
  constexpr int span = kRun * kTerms<T>;  // d of a run
  const Vf scale = set1(args.scale * kLog2E);
  for (int r = 0; r < group.rows; ++r) {
    const float* q = args.q[group.row + r];
    for (int64_t d = 0; d < args.D; d += span) {
      Vf x[span / kLanes];
      for (int i = 0; i < span / kLanes; ++i)
        x[i] = load_up_to(q + d + i * kLanes, maximum(0, args.D - d - i * kLanes)) * scale;
      store_factors<T>(group.q + d / span * kRun * group.rows + r * kRun, 0, x);
    }
  }
}
void take_queries(const AttentionArgs& args, const RowGroup& group) {
  return args.type == DType::rounded ? take_queries_of<Rounded>(args, group) : take_queries_of<float>(args, group);
}

// The group's queries and results, towards the cache: another group is worked on meanwhile.
INLINE void fetch_rows(const AttentionArgs& args, const RowGroup& group) {
  for (int r = group.row; r < group.row + group.rows; ++r) {
    for (int64_t d = 0; d < args.D; d += kLine) __builtin_prefetch(args.q[r] + d);
    for (int64_t c = 0; c < args.Dv; c += kLine) __builtin_prefetch(args.out[r] + c, 1);
  }
}

void zero_rows(const AttentionArgs& args, int row, int rows) {
  for (int r = row; r < row + rows; ++r)
    for (int64_t c = 0; c < args.Dv; c += kLanes) store_up_to(args.out[r] + c, set1(0.0f), args.Dv - c);
}

// Scores to weights: 2^(s - M) / L within [lo, hi), zero elsewhere below `end`.
void finish_weights(float* weights, int64_t lo, int64_t hi, int64_t end, float M, float L) {
  if (M == -kInfinity || lo >= hi) lo = hi = 0;
  for (int64_t j = 0; j < lo; ++j) weights[j] = 0.0f;
  for (int64_t j = lo; j < hi; j += kLanes)
    store_up_to(weights + j, exp2_below_overflow(load_up_to(weights + j, hi - j) - set1(M)) / set1(L), hi - j);
  for (int64_t j = hi; j < end; ++j) weights[j] = 0.0f;
}

// out = O / L; a row that saw nothing keeps its zeros.
void finish_rows(const AttentionArgs& args, const RowGroup& group) {
  int64_t end = 0;
  for (int r = 0; r < args.rows && args.weights; ++r) end = maximum(end, args.hi[r]);
  for (int r = 0; r < group.rows; ++r) {
    const int row = group.row + r;
    float* out = args.out[row];
    if (args.weights && args.weights[row])
      finish_weights(args.weights[row], args.lo[row], args.hi[row], end, group.M[r], group.L[r]);
    if (group.M[r] == -kInfinity) continue;
    for (int64_t c = 0; c < args.Dv; c += kLanes)
      store_up_to(out + c, load_up_to(out + c, args.Dv - c) / set1(group.L[r]), args.Dv - c);
  }
}

// Begins a run of one of `groups` groups at `block`: of one block if others share it, else up to `stop`.
int begin_run(int64_t block, int64_t stop, int groups, RowGroup& group) {
  const int64_t most = groups > 1 ? 1 : minimum(kRunBlocks, maximum(1, kRunPowers / (kBlock * group.rows)));
  const int64_t blocks = minimum(most, stop - block);
  group.run_begin = maximum(block * kBlockPages, group.first / kPage);
  group.run_end = minimum((block + blocks) * kBlockPages, pages_of(group.last));
  return static_cast<int>(blocks);
}

// A run of `blocks` blocks. scored(i, tile) is told when block i has its m, l and p; to(i) says where its values go.
template <class Scored, class To>
INLINE void walk_run(const AttentionArgs& args, int64_t block, int blocks, const RowGroup& group, Scored scored,
                     To to) {
  BlockTile tiles[kRunBlocks];
  bool seen[kRunBlocks];
  for (int i = 0; i < blocks; ++i) {
    tiles[i].p = group.p + i * group.rows;
    seen[i] = open_block(args, (block + i) * kBlock, group, tiles[i]);
    if (!seen[i]) continue;
    score_block(args, group, tiles[i]);
    scored(i, tiles[i]);
  }
  for (int i = 0; i < blocks; ++i)
    if (seen[i]) value_block(args, group, tiles[i], to(i));
}

// A run merged into the group's rows.
void merge_run(const AttentionArgs& args, int64_t block, int blocks, RowGroup& group) {
  float keep[kRunBlocks][kRowSlots], add[kRunBlocks][kRowSlots];
  const auto scored = [&](int i, const BlockTile& tile) {
    merge_block(tile.m, tile.l, group.rows, group, keep[i], add[i]);
  };
  const auto to = [&](int i) {
    Destination rows = {{}, group.blank ? nullptr : keep[i], add[i]};
    for (int r = 0; r < group.rows; ++r) rows.out[r] = args.out[group.row + r];
    group.blank = false;
    return rows;
  };
  walk_run(args, block, blocks, group, scored, to);
}

// Rows [row, row + rows) in `count` equal groups; their queries are still to be taken.
int make_groups(const AttentionArgs& args, int row, int rows, RowGroup* groups) {
  const int count = (rows + kTileRows - 1) / kTileRows;
  const int64_t powers = rows * round_up(args.D, kRun);
  float* q = args.scratch;
  for (int g = 0; g < count; ++g) {
    const int begin = rows * g / count, end = rows * (g + 1) / count;
    start_group(args, row + begin, end - begin, groups[g]);
    groups[g].q = q;
    groups[g].p = reinterpret_cast<float (*)[kBlock]>(args.scratch + powers);
    groups[g].later_keys = groups[g].later_values = reinterpret_cast<const char*>(q);  // nothing new
    q += (end - begin) * round_up(args.D, kRun);
  }
  return count;
}

// Part `i` of `n` of the block that comes next, up to key `last`, is fetched towards the second-level cache: without
// this the first group of rows would wait for each of its pages. One page comes during the products of `group`.
void fetch_block(const AttentionArgs& args, int64_t block, int64_t last, int i, int n, RowGroup& group) {
  constexpr int pages = kBlockPages;
  const auto address = [](const void* const* list, int64_t page) { return static_cast<const char*>(list[page]); };
  group.later_keys = group.later_values = reinterpret_cast<const char*>(group.q);
  for (int p = pages * i / n; p < pages * (i + 1) / n; ++p) {
    const int64_t page = block * pages + p;
    if (page * kPage >= last) return;
    const char *k = address(args.k_pages, page), *v = address(args.v_pages, page);
    if (p == pages * i / n && group.rows == kTileRows) {
      group.later_keys = k;
      group.later_values = v;
      continue;
    }
    for (int64_t at = 0; at < page_size(args.type, args.D); at += 64) __builtin_prefetch(k + at, 0, 2);
    for (int64_t at = 0; at < page_size(args.type, args.ldv); at += 64) __builtin_prefetch(v + at, 0, 2);
  }
}

// M and L of a group's rows from, or to, the state of a part.
void load_state(const float* state, RowGroup& group) {
  for (int r = 0; r < group.rows; ++r) {
    group.M[r] = state[2 * (group.row + r)];
    group.L[r] = state[2 * (group.row + r) + 1];
  }
}
void store_state(const RowGroup& group, float* state) {
  for (int r = 0; r < group.rows; ++r) {
    state[2 * (group.row + r)] = group.M[r];
    state[2 * (group.row + r) + 1] = group.L[r];
  }
}

// Pages of the keys below `last` that stand in blocks below `stop`.
int64_t pages_until(int64_t last, int64_t stop) { return stop > last / kBlock ? pages_of(last) : stop * kBlockPages; }

void attention_rows(const AttentionArgs& args, const AttentionPart& part, int row, int rows) {
  RowGroup groups[kGroups];
  const int count = make_groups(args, row, rows, groups);
  int64_t first = INT64_MAX, last = 0;
  for (int g = 0; g < count; ++g) {
    first = minimum(first, groups[g].first);
    last = maximum(last, groups[g].last);
    groups[g].blank = part.begins;
    if (!part.begins) load_state(part.state, groups[g]);
  }
  const int64_t stop = minimum(part.last, (last + kBlock - 1) / kBlock);
  if (count == 1) groups[0].pages = pages_until(last, stop);
  const int64_t begin = maximum(part.first, first / kBlock);
  int blocks;
  for (int64_t block = begin; block < stop; block += blocks)
    for (int g = 0; g < count; ++g) {
      if (block == begin) {
        take_queries(args, groups[g]);
        if (g + 1 < count) fetch_rows(args, groups[g + 1]);
      }
      if (count > 1) fetch_block(args, block + 1, block + 1 < stop ? last : 0, g, count, groups[g]);
      blocks = begin_run(block, stop, count, groups[g]);
      merge_run(args, block, blocks, groups[g]);
    }
  for (int g = 0; g < count; ++g) {
    if (groups[g].blank) zero_rows(args, groups[g].row, groups[g].rows);
    if (part.ends) {
      finish_rows(args, groups[g]);
    } else {
      store_state(groups[g], part.state);
    }
  }
}

void attention_part(const AttentionArgs* args, const AttentionPart* part) {
  for (int row = 0; row < args->rows; row += kGroups * kTileRows)
    attention_rows(*args, *part, row, static_cast<int>(minimum(kGroups * kTileRows, args->rows - row)));
}

void attention(const AttentionArgs* args) {
  const AttentionPart all = {0, INT64_MAX, nullptr, true, true};
  attention_part(args, &all);
}

#if !defined(FASTATTN_HALVES_ONLY)
// A run whose blocks stay apart: {m, l, o[Dv]} for each block and row.
void partials_of_run(const AttentionArgs& args, int64_t block, int blocks, const RowGroup& group, float* partials) {
  const auto partial = [&](int i, int r) { return partials + (i * args.rows + group.row + r) * (args.Dv + 2); };
  for (int i = 0; i < blocks; ++i)
    for (int r = 0; r < group.rows; ++r) {
      partial(i, r)[0] = -kInfinity;
      partial(i, r)[1] = 0.0f;
    }
  const auto scored = [&](int i, const BlockTile& tile) {
    for (int r = 0; r < group.rows; ++r) {
      partial(i, r)[0] = tile.m[r];
      partial(i, r)[1] = tile.l[r];
    }
  };
  const auto to = [&](int i) {
    Destination rows = {{}, nullptr, nullptr};
    for (int r = 0; r < group.rows; ++r) rows.out[r] = partial(i, r) + 2;
    return rows;
  };
  walk_run(args, block, blocks, group, scored, to);
}

void attention_partial(const AttentionArgs* args, int64_t block_begin, int64_t block_end, float* partials) {
  for (int row = 0; row < args->rows; row += kGroups * kTileRows) {
    RowGroup groups[kGroups];
    const int count = make_groups(*args, row, static_cast<int>(minimum(kGroups * kTileRows, args->rows - row)), groups);
    int64_t last = 0;
    for (int g = 0; g < count; ++g) {
      last = maximum(last, groups[g].last);
      take_queries(*args, groups[g]);
    }
    groups[0].pages = pages_until(last, block_end);  // the others find what it has read in the cache
    int blocks;
    for (int64_t block = block_begin; block < block_end; block += blocks)
      for (int g = 0; g < count; ++g) {
        blocks = begin_run(block, block_end, count, groups[g]);
        partials_of_run(*args, block, blocks, groups[g],
                        partials + (block - block_begin) * args->rows * (args->Dv + 2));
      }
  }
}

void attention_merge(const AttentionArgs* args, int ranges, const int64_t* range_begin, const float* const* partials) {
  const int64_t ld = args->Dv + 2;
  for (int row = 0; row < args->rows; ++row) {
    RowGroup group;
    start_group(*args, row, 1, group);
    zero_rows(*args, row, 1);
    for (int i = 0; i < ranges; ++i)
      for (int64_t block = 0; block < range_begin[i + 1] - range_begin[i]; ++block) {
        const float* partial = partials[i] + (block * args->rows + row) * ld;
        float m[kRowSlots] = {partial[0]}, l[kRowSlots] = {partial[1]}, keep[kRowSlots], add[kRowSlots];
        merge_block(m, l, 1, group, keep, add);
        const Destination to = {{args->out[row]}, keep, add};
        if (partial[0] == -kInfinity) continue;
        for (int64_t c = 0; c < args->Dv; c += kLanes)
          deliver(load_up_to(partial + 2 + c, args->Dv - c), to, 0, c, args->Dv - c);
      }
    finish_rows(*args, group);
  }
}
#endif
