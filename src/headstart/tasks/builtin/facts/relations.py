"""Relations between words: opposites, near-synonyms, words that sound alike."""


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(first, second) for first, second in (pair.split() for pair in text.split(","))]


OPPOSITES: list[tuple[str, str]] = _pairs(
    """hot cold,big small,tall short,new old,early late,happy sad,dark light,full empty,closed open,wet dry,soft hard,fast slow,
    rich poor,strong weak,loud quiet,high low,left right,up down,in out,on off,day night,good bad,true false,clean dirty,deep shallow,
    heavy light,thick thin,wide narrow,rough smooth,blunt sharp,alive dead,asleep awake,absent present,ancient modern,
    depart arrive,ascend descend,attack defend,backward forward,before after,begin end,beneath above,best worst,
    borrow lend,bottom top,boy girl,brave cowardly,brother sister,buy sell,cheap expensive,
    child adult,create destroy,danger safety,defeat victory,deny admit,easy difficult,east west,
    entrance exit,even odd,export import,exterior interior,fail succeed,father mother,female male,
    first last,float sink,forget remember,freeze melt,friend enemy,gain loss,divide multiply,
    give take,guilty innocent,hate love,heaven hell,horizontal vertical,husband wife,include exclude,
    increase decrease,inhale exhale,inside outside,junior senior,king queen,laugh cry,lead follow,
    less more,win lose,major minor,maximum minimum,military civilian,morning evening,natural artificial,near far,negative positive,
    never always,north south,nothing everything,nobody everybody,optimist pessimist,parent child,past future,
    peace war,permanent temporary,plural singular,polite rude,private public,profit loss,
    pull push,question answer,reward punishment,rise fall,rural urban,expand contract,shout whisper,
    sit stand,arrival departure,add subtract,loser winner,student teacher,summer winter,sunrise sunset,
    tight loose,transparent opaque,beautiful ugly,under over,uncle aunt,useful useless,visible invisible,whole part,
    wise foolish,with without,young old,zenith nadir"""
)

SYNONYMS: list[tuple[str, str]] = _pairs(
    """large huge,begin start,quick fast,happy glad,angry furious,smart clever,silent quiet,tired weary,rich wealthy,sick ill,
    small tiny,scared afraid,shut close,speak talk,stone rock,gift present,answer reply,error mistake,quarrel argument,
    brave courageous,calm peaceful,correct right,costly expensive,strange odd,easy simple,end finish,famous renowned,funny amusing,
    help assist,hide conceal,hurry rush,idea notion,jump leap,kind gentle,lazy idle,leave depart,middle centre,mend repair,
    near close,neat tidy,noisy loud,odour smell,pain ache,permit allow,pretty beautiful,purchase buy,reject refuse,rescue save,
    road street,sad unhappy,safe secure,scream yell,select choose,shout yell,sleepy drowsy,slim thin,strong powerful,sure certain,
    test exam,thankful grateful,trust believe,vacant empty,vanish disappear,wet damp,whole entire,wise sensible,woods forest,
    writer author,job occupation,journey trip,liberty freedom,autumn fall,buddy friend,hard difficult,garbage rubbish,
    physician doctor,infant baby,cab taxi,present current,reasonable fair,reply respond"""
)

HOMOPHONES: list[tuple[str, str]] = _pairs(
    """sea see,bear bare,sun son,flower flour,hair hare,night knight,meat meet,week weak,tale tail,pair pear,
    one won,eight ate,hour our,brake break,deer dear,made maid,mail male,plain plane,role roll,sail sale,
    steel steal,stair stare,waist waste,wait weight,wood would,write right,root route,knot not,know no,new knew,
    blew blue,board bored,cell sell,cereal serial,creak creek,die dye,fair fare,feat feet,flea flee,groan grown,
    heal heel,hear here,heard herd,hole whole,idol idle,key quay,loan lone,mussel muscle,none nun,peace piece,
    peak peek,pause paws,principal principle,read reed,sew so,shoe shoo,some sum,stationary stationery,
    threw through,toe tow,vain vein,war wore,which witch,be bee,berry bury,ring wring,rap wrap,allowed aloud,bread bred,
    guessed guest,passed past,tide tied,tacks tax,pray prey"""
)
