"""Style: the colours and type of the page and its pictures, in light and in dark."""

# Okabe and Ito's colours, which colour-blind people tell apart, lighter on a dark ground.
_LIGHT = """
--ground: #f6f5f1; --card: #ffffff; --ink: #1d2129; --soft: #626872; --line: #dfded9;
--worse: #d55e00; --better: #0072b2;
--s0: #0072b2; --s1: #d55e00; --s2: #009e73; --s3: #b8578f; --s4: #c48a00; --s5: #3d9fd6;
--both: #009e73; --student: #56b4e9; --teacher: #e69f00; --same: #8d929b; --other: #cc79a7;
"""
_DARK = """
--ground: #111418; --card: #1a1e24; --ink: #e9ebee; --soft: #a0a7b2; --line: #333a44;
--worse: #f0803c; --better: #4fa8e0;
--s0: #4fa8e0; --s1: #f0803c; --s2: #2cc295; --s3: #dd93bb; --s4: #f0b429; --s5: #9bd4f5;
--both: #1fa67e; --student: #56b4e9; --teacher: #e69f00; --same: #7c828c; --other: #cc79a7;
"""
SERIES = 6
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"

_SERIES_RULES = "\n".join(
    f".s{n} {{ fill: var(--s{n}); }} .l{n} {{ stroke: var(--s{n}); }}" for n in range(SERIES)
)
PICTURE = f"""
svg text {{ font: 12px {FONT}; fill: var(--ink); }}
svg .soft {{ fill: var(--soft); font-size: 11px; }}
svg .cell {{ font-size: 10px; }}
svg .strong {{ font-weight: 650; }}
svg .on {{ fill: #111418; font-size: 11px; }}
svg .card {{ fill: var(--card); }}
svg .grid {{ stroke: var(--line); stroke-width: 1; fill: none; }}
svg .track {{ fill: var(--line); opacity: .55; }}
svg .dashed {{ stroke: var(--soft); stroke-width: 1.2; stroke-dasharray: 4 3; fill: none; }}
svg .whisker {{ stroke-width: 3; stroke-linecap: round; opacity: .45; fill: none; }}
svg .curve {{ stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; fill: none; }}
svg .gap {{ fill-opacity: .28; stroke-opacity: .8; }}
svg .faint {{ fill-opacity: .45; }}
.worse {{ fill: var(--worse); }} .better {{ fill: var(--better); }}
.lworse {{ stroke: var(--worse); }} .lbetter {{ stroke: var(--better); }}
.steacher {{ fill: var(--ink); }} .lteacher {{ stroke: var(--ink); }}
.both {{ fill: var(--both); }} .student {{ fill: var(--student); }}
.teacher {{ fill: var(--teacher); }} .same {{ fill: var(--same); }} .other {{ fill: var(--other); }}
{_SERIES_RULES}
"""
COLORS = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
"""
PAGE = f"""
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.55 {FONT};
  -webkit-text-size-adjust: 100%; }}
main {{ max-width: 1180px; margin: 0 auto; padding: 40px 24px 64px; }}
h1 {{ font-size: 32px; line-height: 1.2; letter-spacing: -.02em; margin: 0 0 16px; }}
h2 {{ font-size: 22px; line-height: 1.3; letter-spacing: -.01em; margin: 56px 0 6px; }}
h3 {{ font-size: 15px; line-height: 1.35; margin: 0 0 2px; overflow-wrap: anywhere; }}
p {{ margin: 0 0 12px; max-width: 74ch; overflow-wrap: anywhere; }}
section > p {{ color: var(--soft); margin-bottom: 18px; }}
.summary {{ padding: 0; margin: 0 0 8px; list-style: none; max-width: 80ch; }}
.summary li {{ margin: 0 0 8px; overflow-wrap: anywhere; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 24px 0 28px; }}
.tile, .card {{ background: var(--card); border: 1px solid var(--line); border-radius: 14px; }}
.tile {{ padding: 16px 18px; }}
.tile b {{ display: block; font-size: 30px; line-height: 1.15; letter-spacing: -.02em;
  font-weight: 680; white-space: nowrap; }}
.tile span {{ color: var(--soft); font-size: 14px; line-height: 1.35; display: block;
  overflow-wrap: anywhere; margin-top: 4px; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(330px, 100%), 1fr));
  gap: 16px; }}
.two {{ grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); }}
.card {{ padding: 18px 20px 14px; margin: 0; min-width: 0; }}
.card figcaption p {{ color: var(--soft); font-size: 13px; line-height: 1.4; margin: 0 0 10px; }}
.card svg {{ display: block; width: 100%; max-width: 460px; height: auto; }}
.wide {{ overflow-x: auto; margin: 16px 0 0; padding: 6px 8px 6px 0; }}
table {{ border-collapse: collapse; width: 100%; font-size: 13.5px;
  font-variant-numeric: tabular-nums; }}
th, td {{ padding: 9px 8px; text-align: right; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; white-space: normal; min-width: 150px;
  padding-left: 16px;
  overflow-wrap: break-word; position: sticky; left: 0; background: var(--card); }}
th {{ color: var(--soft); font-weight: 550; font-size: 12px; white-space: normal;
  vertical-align: bottom; line-height: 1.3; }}
tbody tr {{ border-top: 1px solid var(--line); }}
.gallery {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr));
  gap: 12px; margin: 10px 0 24px; }}
.gallery figure {{ margin: 0; padding: 10px; min-width: 0; }}
.gallery img {{ display: block; width: 100%; aspect-ratio: 1; object-fit: contain;
  image-rendering: pixelated; border-radius: 8px; background: #000; }}
.gallery figcaption {{ font-size: 13px; line-height: 1.4; margin-top: 8px;
  overflow-wrap: anywhere; }}
.gallery figcaption span {{ display: block; }}
.right {{ color: var(--better); font-weight: 600; }}
.wrong {{ color: var(--worse); font-weight: 600; }}
footer {{ color: var(--soft); font-size: 13px; margin-top: 56px; border-top: 1px solid var(--line);
  padding-top: 16px; }}
@media (max-width: 560px) {{
  main {{ padding: 24px 14px 48px; }}
  h1 {{ font-size: 26px; }}
  .tiles {{ grid-template-columns: 1fr 1fr; }}
  .tile:last-child:nth-child(odd) {{ grid-column: 1 / -1; }}
  .tile {{ padding: 12px 14px; }} .tile b {{ font-size: 24px; }}
  .card {{ padding: 14px 14px 10px; }}
  .gallery {{ grid-template-columns: repeat(3, 1fr); gap: 8px; }}
  .gallery figure {{ padding: 7px; }}
}}
"""
